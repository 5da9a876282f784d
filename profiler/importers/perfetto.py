"""Perfetto's protobuf: track events (slices with a begin and an end, or Chrome's whole ones), as calls and GPU slices.

What a slice is, its category tells, as in Kineto's JSON (`cpu_op`, `cuda_runtime`, `kernel`, …), and its debug
annotations are Kineto's args (`correlation`, `External id`, `device`, `stream`, `bytes`, `Input Dims` …); slices of
other categories are calls of kind `other`. Interned names, packet defaults, incremental clocks and compressed packets
are understood. Not taken: ftrace, counters, instants, GPU render stages, heap graphs and all else.

Field numbers: perfetto.dev/docs/reference/trace-packet-proto.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers import kineto
from flowprof.profiler.importers.kineto_event import Event, known_category, set_free
from flowprof.profiler.importers.perfetto_args import annotation, kineto_args
from flowprof.profiler.importers.perfetto_packets import MAX_PACKET, detect, packets
from flowprof.profiler.importers.protobuf import WireError, chosen, fields, signed, text
from flowprof.profiler.importers.source import Source
from flowprof.profiler.importers.trace import MAX_NAME, MAX_OPEN_BYTES, MAX_PROCESSES, Format, Trace

NAME = "Perfetto protobuf"
BATCH = 20_000
MAX_INFLATED = 64 << 20  # of one compressed packet
MAX_TRACKS = 1_000_000
MAX_CLOCKS = 1000  # of one snapshot
MAX_EVENT = 1 << 20  # bytes of a track event
MAX_WAITING = 32 << 20  # bytes of events that are held before they are taken
MAX_HELD = 128 << 20  # bytes of what packets refer to: names, clocks
_SEQUENCE_BYTES, _ENTRY_BYTES = 1000, 150  # beside the texts
_BEGIN, _END = 1, 2
_BOOTTIME = 6
_KNOWN = frozenset(("cpu_op", "cuda_runtime", "cuda_driver", "kernel", "gpu_memcpy", "gpu_memset", "user_annotation"))


def read(source: Source) -> Trace:
    """Raises RecordingError."""
    trace = Trace(NAME)
    reader = _Reader(trace, source)
    try:
        for packet in packets(source):
            reader.packet(packet)
    except WireError as error:
        raise RecordingError(f"{source.path} is damaged: {error}", "copy it again") from error
    reader.finish()
    return trace


@dataclass(slots=True)
class _Sequence:
    """What packets of one writer refer to."""

    categories: dict[int, str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    values: dict[int, str] = field(default_factory=dict)
    clock: int = _BOOTTIME
    track: int = 0
    clocks: dict[int, _Clock] = field(default_factory=dict)
    held: int = 0  # bytes


@dataclass(slots=True)
class _Clock:
    """latest: in its own units; offset_ns: boot time less this clock."""

    latest: int
    unit_ns: int
    incremental: bool
    offset_ns: int


@dataclass(slots=True)
class _Track:
    pid: int | None = None
    tid: int | str | None = None
    parent: int | None = None
    thread: bool = False


class _Reader:
    def __init__(self, trace: Trace, source: Source) -> None:
        self.trace = trace
        self.source = source
        self.events = kineto.Reader(trace, unit=1)
        self.sequences: dict[int, _Sequence] = {}
        self.tracks: dict[int, _Track] = {}
        self.held = 0  # bytes of all sequences
        self.open: dict[int, list[tuple[Event, int]]] = {}  # with their bytes
        self.open_bytes = 0
        self.too_large = 0
        self.waiting: list[Event] = []
        self.waiting_bytes = 0

    def packet(self, packet: bytes, inflated: bool = False) -> None:
        """One TracePacket. Raises WireError."""
        at, sequence, flags, clock = 0, 0, 0, None
        bodies: dict[int, bytes] = {}
        for number, value in fields(packet):
            if number == 8 and isinstance(value, int):
                at = value
            elif number == 10 and isinstance(value, int):
                sequence = value
            elif number == 13 and isinstance(value, int):
                flags = value
            elif number == 58 and isinstance(value, int):
                clock = value
            elif number in (6, 11, 12, 59, 60) and isinstance(value, bytes):
                bodies[number] = value
            elif number == 50 and isinstance(value, bytes) and not inflated:
                self._inflated(value)
        state = self.sequences.get(sequence)
        if state is None or flags & 1:  # SEQ_INCREMENTAL_STATE_CLEARED
            self.held -= state.held if state is not None else 0
            state = self.sequences[sequence] = _Sequence()
            self._hold(state, _SEQUENCE_BYTES)
        if 12 in bodies:
            self._intern(bodies[12], state)
        if 59 in bodies:
            _defaults(bodies[59], state)
        if 6 in bodies:
            self._clocks(bodies[6], state)
        if 60 in bodies:
            self._track(bodies[60])
        if 11 in bodies:
            self._event(bodies[11], _boot_ns(at, state.clock if clock is None else clock, state), state)

    def finish(self) -> None:
        """Raises RecordingError."""
        self.events.take(self.waiting)
        self.events.finish({})
        unended = sum(map(len, self.open.values()))
        self.trace.malformed = self.events.malformed + self.too_large
        self.trace.unix_offset_ns = None  # boot time is no wall clock
        if unended:
            self.trace.notes.append(f"{unended} slices did not end and were left out")

    # ------------------------------------------------------------------ what packets hold

    def _inflated(self, data: bytes) -> None:
        inflate = zlib.decompressobj()
        try:
            whole = inflate.decompress(data, MAX_INFLATED)
        except zlib.error as error:
            raise WireError(f"a compressed packet: {error}") from error
        if inflate.unconsumed_tail:
            raise WireError(f"a compressed packet of more than {MAX_INFLATED >> 20} MB")
        self.source.count(len(whole))
        for number, value in fields(whole):
            if number == 1 and isinstance(value, bytes):
                if len(value) > MAX_PACKET:
                    raise WireError(f"a packet of more than {MAX_PACKET >> 20} MB")
                self.packet(value, inflated=True)

    def _intern(self, data: bytes, state: _Sequence) -> None:
        tables = {1: state.categories, 2: state.names, 3: state.keys, 29: state.values}
        for number, value in fields(data):
            table = tables.get(number)
            if table is not None and isinstance(value, bytes):
                found = chosen(value, 1, 2)
                iid = found.get(1, 0)
                if isinstance(iid, int):
                    one = _cut(text(found.get(2, b"")))
                    self._hold(state, len(one) - len(table[iid]) if iid in table else _ENTRY_BYTES + len(one))
                    table[iid] = one

    def _clocks(self, data: bytes, state: _Sequence) -> None:
        seen: list[list[int]] = []
        for number, value in fields(data):
            if number == 1 and isinstance(value, bytes) and len(seen) < MAX_CLOCKS:
                one = chosen(value, 1, 2, 3, 4)
                seen.append([part if isinstance(part := one.get(key, 0), int) else 0 for key in (1, 2, 3, 4)])
        boot = next((at for clock, at, _, _ in seen if clock == _BOOTTIME), None)
        for clock, at, incremental, unit in seen:
            unit_ns = unit or 1
            offset = 0 if boot is None else boot - at * unit_ns
            if clock != _BOOTTIME:
                self._hold(state, 0 if clock in state.clocks else _ENTRY_BYTES)
                state.clocks[clock] = _Clock(at, unit_ns, bool(incremental), offset)

    def _hold(self, state: _Sequence, size: int) -> None:
        """So many bytes more are kept for a sequence. Raises WireError."""
        state.held += size
        self.held += size
        if self.held > MAX_HELD:
            raise WireError("too many sequences, or names of theirs")

    def _track(self, data: bytes) -> None:
        uuid, track = 0, _Track()
        for number, value in fields(data):
            if number == 1 and isinstance(value, int):
                uuid = value
            elif number == 5 and isinstance(value, int):
                track.parent = value
            elif number in (2, 10) and track.tid is None:
                track.tid = text(value)[:200]
            elif number in (3, 4) and isinstance(value, bytes):
                one = chosen(value, 1, 2, 5, 6)
                pid = one.get(1, 0)
                track.pid = pid if isinstance(pid, int) and pid < 1 << 31 else None
                name = text(one.get(5 if number == 4 else 6, b""))[:200]
                if number == 4:
                    tid = one.get(2, 0)
                    track.tid, track.thread = tid if isinstance(tid, int) else 0, True
                    if name and track.pid is not None and isinstance(track.tid, int):
                        _describe(self.trace.threads, (track.pid, track.tid), name)
                elif name and track.pid is not None:
                    _describe(self.trace.processes, track.pid, name)
        self.tracks[uuid] = track
        if len(self.tracks) > MAX_TRACKS:
            raise WireError("too many tracks")

    def _event(self, data: bytes, at_ns: int, state: _Sequence) -> None:
        if len(data) > MAX_EVENT:
            self.too_large += 1
            return
        kind, track_id, name, categories, args, dur_us = 0, state.track, "", list[str](), dict[str, Any](), None
        for number, value in fields(data):
            if isinstance(value, int):
                if number == 9:
                    kind = value
                elif number == 11:
                    track_id = value
                elif number == 10:
                    name = state.names.get(value, "")
                elif number == 3:
                    categories.append(state.categories.get(value, ""))
                elif number == 1:
                    at_ns += signed(value) * 1000
                elif number == 16:
                    at_ns = signed(value) * 1000
            elif number == 23:
                name = _cut(text(value))
            elif number == 22:
                categories.append(_cut(text(value)))
            elif number == 4:
                key, one = annotation(value, state.keys, state.values)
                args[key] = one
            elif number == 6:
                legacy = chosen(value, 2, 3)
                duration = legacy.get(3)
                if legacy.get(2) == ord("X") and isinstance(duration, int):
                    dur_us = signed(duration)
        if kind == _END:
            stack = self.open.get(track_id)
            if stack:
                event, size = stack.pop()
                self.open_bytes -= size
                event.dur = at_ns - (event.ts or 0)
                if args:
                    event.args = kineto_args(args)
                self._keep(event, size + len(data))
                if not stack:
                    del self.open[track_id]
            return
        if kind != _BEGIN and dur_us is None:
            return
        event = self._slice(track_id, name, categories, at_ns, args)
        if dur_us is not None:
            event.dur = dur_us * 1000
            self._keep(event, len(data))
            return
        size = set_free(event)
        self.open.setdefault(track_id, []).append((event, size))
        self.open_bytes += size
        if self.open_bytes > MAX_OPEN_BYTES:
            raise WireError("too many slices that do not end")

    def _slice(self, track_id: int, name: str, categories: list[str], at_ns: int, args: dict[str, Any]) -> Event:
        track = self.tracks.get(track_id, _Track())
        parent = self.tracks.get(track.parent or 0)
        pid = track.pid if track.pid is not None else parent.pid if parent is not None else None
        tid = track.tid if track.tid is not None else parent.tid if parent is not None and parent.thread else None
        known = next((one for one in categories if one.casefold() in _KNOWN), None)
        category = known if known is not None else next(iter(categories), "")
        if not known_category(category):
            category = ""
        return Event("X", category, name, pid, tid, at_ns, None, kineto_args(args) if args else None)

    def _keep(self, event: Event, size: int) -> None:
        self.waiting.append(event)
        self.waiting_bytes += size
        if len(self.waiting) >= BATCH or self.waiting_bytes > MAX_WAITING:
            self.events.take(self.waiting)
            self.waiting, self.waiting_bytes = [], 0


def _cut(name: str) -> str:
    """No longer than what is kept of it (one more tells that it was cut)."""
    return name[: MAX_NAME + 1]


def _describe(names: dict[Any, str], key: Any, name: str) -> None:
    if key in names or len(names) < MAX_PROCESSES:
        names[key] = name


def _defaults(data: bytes, state: _Sequence) -> None:
    for number, value in fields(data):
        if number == 58 and isinstance(value, int):
            state.clock = value
        elif number == 11 and isinstance(value, bytes):
            for inner, one in fields(value):
                if inner == 11 and isinstance(one, int):
                    state.track = one


def _boot_ns(at: int, clock: int, state: _Sequence) -> int:
    known = state.clocks.get(clock)
    if known is None:
        return at
    if known.incremental:
        at = known.latest = known.latest + at
    return at * known.unit_ns + known.offset_ns


FORMAT = Format(NAME, detect, read)
