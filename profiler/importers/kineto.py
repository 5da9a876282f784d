"""Chrome JSON as PyTorch's Kineto writes it: operators, CUDA and HIP calls, kernels and copies.

What differs between writers, and is taken as it comes:

* categories: `cpu_op` was `Operator`, `cuda_runtime` was `Runtime`, `kernel` was `Kernel` …; ROCm writes HIP's names
  under `cuda_runtime`; events without a category are calls of kind `other`.
* times are µs, with three decimals or none; in some files they are nanoseconds, which their size betrays: beside
  `baseTimeNanoseconds` µs stay below 10^14 (three years after it), without it below 10^17 (the year 5138).
* `External id` was `external id`, `Input Dims` was `Input dims`; thread ids may be texts ("stream 7").
* a kernel's launch is the call with its `correlation`; its operator the one with its `External id`.
* what a synchronisation waits for is in its `cuda_sync` slice, where they were switched on (`enable_cuda_sync_events`);
  a `cuda_event` says in which stream a call recorded an event.
* GPU work before the first launch of the file belongs to what ran before the recording (the profiler's warm-up step):
  Kineto switches the GPU's side on first. It is kept, and left out of the timeline.

Not taken: flows (the correlation says the same), instants, counters, the profiler's own spans.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers.event_stream import EventStream
from flowprof.profiler.importers.kineto_event import (
    EMPTY,
    KIND_OF,
    RECORDED,
    SLICES_FROM,
    UNUSUAL,
    Event,
    decoded,
    external_ids,
    moved_bytes,
    raw_text,
    set_free,
)
from flowprof.profiler.importers.source import Source
from flowprof.profiler.importers.trace import (
    MAX_EVENTS,
    MAX_OPEN_BYTES,
    MAX_PROCESSES,
    MISSING,
    SLICE_KINDS,
    Device,
    Format,
    Ints,
    Trace,
    in_range,
)
from numpy.typing import NDArray

NAME = "Kineto JSON"
_THREAD = re.compile(r"thread -?\d+ \((.+)\)")
_SYNC = SLICE_KINDS.index("sync")


def detect(head: bytes) -> bool:
    """An object or a list of JSON: who else writes one will have no events."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return (start[:1] == b"{" and start[1:].lstrip()[:1] in (b'"', b"}")) or re.match(rb"\[\s*[{\]]", start) is not None


def read(source: Source) -> Trace:
    """Raises RecordingError."""
    trace = Trace(NAME)
    stream = EventStream(source, Event)
    reader = Reader(trace)
    for events in stream:
        reader.take(events)
    trace.malformed = stream.malformed + reader.malformed
    reader.finish(stream.facts)
    return trace


class Reader:
    """Puts events into a trace. `unit`: nanoseconds of one unit of their times; None: as their size says."""

    def __init__(self, trace: Trace, unit: int | None = None) -> None:
        self.trace = trace
        self.malformed = 0
        self._unit = unit
        self._latest_ns = 0
        self._left_out: Counter[str] = Counter()
        self._lines: dict[str, int] = {}  # thread ids that are texts
        self._begun: dict[tuple[Any, Any], list[tuple[Event, int]]] = {}  # B events that wait for their E, and bytes
        self._begun_bytes = 0

    def take(self, events: list[Event]) -> None:
        """Keep what is a slice; half of the time goes into loops over all events, so they are comprehensions."""
        whole = [event for event in events if event.ph == "X"]
        if len(whole) < len(events):
            whole += self._others(events)
        kinds = [KIND_OF.get(event.cat, UNUSUAL) for event in whole]
        if UNUSUAL in kinds:
            kinds = [
                self._unusual(event.cat or "") if kind == UNUSUAL else kind
                for event, kind in zip(whole, kinds, strict=True)
            ]
        self._add_calls(
            [event for event, kind in zip(whole, kinds, strict=True) if 0 <= kind < SLICES_FROM],
            [kind for kind in kinds if 0 <= kind < SLICES_FROM],
        )
        self._add_slices(
            [event for event, kind in zip(whole, kinds, strict=True) if kind >= SLICES_FROM],
            [kind - SLICES_FROM for kind in kinds if kind >= SLICES_FROM],
        )
        if RECORDED in kinds:
            self._recorded([event for event, kind in zip(whole, kinds, strict=True) if kind == RECORDED])

    def _others(self, events: list[Event]) -> list[Event]:
        """Slices made of their beginning and end; names are taken on the way."""
        found = []
        for event in events:
            if event.ph == "M":
                self._describe(event)
            elif event.ph in ("B", "E"):
                paired = self._paired(event)
                if paired is not None:
                    found.append(paired)
        return found

    def finish(self, facts: dict[str, Any]) -> None:
        trace = self.trace
        base = facts.get("baseTimeNanoseconds")
        if isinstance(base, int) and 0 < base < 1 << 62:
            if self._unit == 1000 and self._latest_ns > 10**17:
                trace.scale = 1000
            trace.unix_offset_ns = base
        elif self._latest_ns > 10**18:  # since 2001: the wall clock itself
            trace.unix_offset_ns = 0
        properties = facts.get("deviceProperties")
        for one in properties if isinstance(properties, list) else ():
            if isinstance(one, dict) and isinstance(one.get("id"), int) and 0 <= one["id"] < 1 << 16:
                memory, name = one.get("totalGlobalMem"), one.get("name")
                known = isinstance(memory, int) and 0 < memory < 1 << 62
                trace.devices[one["id"]] = Device(name if isinstance(name, str) else "", memory if known else None)
        listed = {device.name for device in trace.devices.values()}
        if len(listed) == 1:  # ROCm numbers devices otherwise than it lists them
            trace.any_device = Device(listed.pop())
        trace.gpu_from_first_launch = True
        self._left_out["B without E"] = sum(map(len, self._begun.values()))
        for what, count in self._left_out.most_common(5):
            if count:
                trace.notes.append(f"{count} events of category {what!r:.60} were left out")
        distributed = facts.get("distributedInfo")
        if isinstance(distributed, dict):
            for key in ("rank", "world_size"):
                if isinstance(distributed.get(key), int):
                    trace.facts[f"distributed_{key}"] = str(distributed[key])

    # ------------------------------------------------------------------ events that are seldom

    def _unusual(self, category: str) -> int:
        """The kind of a category of another spelling; -1: left out."""
        kind = KIND_OF.get(category.casefold(), -1)
        if kind == -1 and category.casefold() not in ("async", "trace"):
            self._left_out[category[:100] if len(self._left_out) < 100 else "others"] += 1
        return kind

    def _paired(self, event: Event) -> Event | None:
        where = (event.pid, event.tid)
        if event.ph == "B":
            size = set_free(event)
            self._begun_bytes += size
            if self._begun_bytes > MAX_OPEN_BYTES:
                raise RecordingError("too many slices begin and do not end", "such a trace is damaged")
            self._begun.setdefault(where, []).append((event, size))
            return None
        line = self._begun.get(where)
        if not line:
            return None
        begun, size = line.pop()
        self._begun_bytes -= size
        if not line:
            del self._begun[where]
        if begun.ts is None or event.ts is None:
            return None
        begun.dur = event.ts - begun.ts
        return begun

    def _describe(self, event: Event) -> None:
        pid, name = event.pid, decoded(event.args.name) if event.args else None
        if not isinstance(name, str) or not name or not isinstance(pid, int) or abs(pid) >= 1 << 31:
            return
        if event.name == "process_name" and len(self.trace.processes) < MAX_PROCESSES:
            self.trace.processes[pid] = name[:200]
        elif event.name == "thread_name" and len(self.trace.threads) < MAX_PROCESSES:
            own = _THREAD.fullmatch(name)  # "thread 7 (pt_autograd_0)" says its number once more
            self.trace.threads[pid, self._line(event.tid)] = (own[1] if own else name)[:200]

    def _line(self, tid: int | str | None) -> int:
        """A thread's number; a text's digits, or a negative number of our own."""
        if isinstance(tid, int):
            return tid if abs(tid) < 1 << 62 else MISSING
        text = "" if tid is None else tid
        found = re.search(r"(\d{1,18})$", text)
        if found:
            return int(found[1])
        if len(self._lines) >= MAX_PROCESSES:
            return self._lines.get(text[:200], MISSING)
        return self._lines.setdefault(text[:200], -2 - len(self._lines))

    # ------------------------------------------------------------------ columns

    def _add_calls(self, events: list[Event], kinds: list[int]) -> None:
        if not events:
            return
        names, all_args = self.trace.names, self.trace.args
        args = [event.args or EMPTY for event in events]
        start, end, fine = self._times(events)
        columns = {
            "pid": self._pids(events),
            "tid": self._tids(events),
            "kind": np.array(kinds, np.int64),
            "name": np.array([names[event.name or ""] for event in events], np.int64),
            "start_ns": start,
            "end_ns": end,
            "correlation": np.array([one.correlation for one in args], np.int64),
            "external_id": external_ids(args),
            "args_id": np.array(
                [
                    all_args[b"\0".join((one.dims or one.dims_old, one.types, one.scalars))]
                    if one.types or one.dims or one.dims_old
                    else MISSING
                    for one in args
                ],
                np.int64,
            ),
        }
        self.trace.calls.add({name: column[fine] for name, column in columns.items()}, int(fine.sum()))

    def _add_slices(self, events: list[Event], kinds: list[int]) -> None:
        if not events:
            return
        names = self.trace.names
        args = [event.args or EMPTY for event in events]
        start, end, fine = self._times(events)
        device = np.array([one.device for one in args], np.int64)
        stream = np.array([one.stream for one in args], np.int64)
        columns = {
            "device": np.where(device == MISSING, self._pids(events), device),
            "stream": np.where(stream == MISSING, np.array([self._line(event.tid) for event in events]), stream),
            "kind": np.array(kinds, np.int64),
            "name": np.array([names[event.name or ""] for event in events], np.int64),
            "start_ns": start,
            "end_ns": end,
            "correlation": np.array([one.correlation for one in args], np.int64),
            "external_id": external_ids(args),
            "bytes": np.array([moved_bytes(one) for one in args], np.int64),
            "grid": np.array([names[raw_text(one.grid)] if one.grid else MISSING for one in args], np.int64),
            "block": np.array([names[raw_text(one.block)] if one.block else MISSING for one in args], np.int64),
            "graph_node": np.array([one.graph_node for one in args], np.int64),
        }
        self.trace.slices.add({name: column[fine] for name, column in columns.items()}, int(fine.sum()))
        if _SYNC in kinds:
            self._add_syncs([event for event, kind in zip(events, kinds, strict=True) if kind == _SYNC])

    def _add_syncs(self, events: list[Event]) -> None:
        """What each waits for: a stream or an event of the host, or an event of a stream (-1: it is not said)."""
        rows = []
        for event in events:
            one = event.args or EMPTY
            if event.name == "Stream Sync":
                rows.append((one.correlation, MISSING, one.stream, MISSING))
            elif event.name in ("Event Sync", "Stream Wait Event"):
                waiting = one.stream if event.name == "Stream Wait Event" else MISSING
                rows.append((one.correlation, waiting, one.awaited, one.record))
        if rows:
            columns = np.array(rows, np.int64).T
            columns[columns < 0] = MISSING
            names = ("correlation", "waiting_stream", "awaited_stream", "awaited_record")
            self.trace.syncs.add(dict(zip(names, columns, strict=True)), len(rows))

    def _recorded(self, events: list[Event]) -> None:
        for event in events:
            one = event.args or EMPTY
            if one.correlation > 0 and one.stream >= 0 and len(self.trace.recorded) < MAX_EVENTS:
                self.trace.recorded[one.correlation] = one.stream

    def _pids(self, events: list[Event]) -> Ints:
        pids = [event.pid for event in events]
        return np.array(
            [pid if type(pid) is int and -(1 << 31) <= pid < 1 << 31 else MISSING for pid in pids], np.int64
        )

    def _tids(self, events: list[Event]) -> Ints:
        try:
            return np.array(
                [event.tid if type(event.tid) is int else self._line(event.tid) for event in events], np.int64
            )
        except OverflowError:  # some are beyond any thread's
            return np.array([self._line(event.tid) for event in events], np.int64)

    def _times(self, events: list[Event]) -> tuple[Ints, Ints, NDArray[np.bool_]]:
        """Start and end in ns, and which of them can be."""
        start = _numbers([event.ts for event in events])
        dur = _numbers([event.dur for event in events])
        known = start[np.isfinite(start)]
        if self._unit is None and len(known):
            self._unit = 1 if abs(float(np.median(known))) > 1e17 else 1000
        unit = self._unit or 1000
        with np.errstate(over="ignore"):  # what has no end is out of range, too
            fine = in_range(start * float(unit), dur * float(unit))
        start, dur = np.where(fine, start, 0), np.where(fine, dur, 0)
        begin = _scaled(start, unit)
        end = begin + _scaled(dur, unit)
        self.malformed += len(events) - int(fine.sum())
        if fine.any():
            self._latest_ns = max(self._latest_ns, int(begin[fine].max()))
        return begin, end, fine


def _numbers(values: list[Any]) -> NDArray[Any]:
    """int64 where all are integers, else float64 with NaN for what is none."""
    try:
        return np.array(values, np.int64) if all(type(one) is int for one in values) else np.array(values, np.float64)
    except (OverflowError, TypeError, ValueError):
        return np.array([float(one) if one is not None and abs(one) < 1e300 else np.nan for one in values])


def _scaled(values: NDArray[Any], unit: int) -> Ints:
    if values.dtype == np.int64:
        return np.asarray(values * unit, np.int64)
    whole = np.floor(values)  # apart, for a double has not enough digits for nanoseconds since 1970
    return np.asarray(whole.astype(np.int64) * unit + np.rint((values - whole) * unit).astype(np.int64), np.int64)


FORMAT = Format(NAME, detect, read)
