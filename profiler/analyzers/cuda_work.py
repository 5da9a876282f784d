"""Calls of CUDA and NCCL as arrays, without those that are part of another: what was asked of which stream, when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.analyzers import cuda_graphs
from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.analyzers.cuda_streams import Completions, Queue, follow
from flowprof.profiler.importers.nesting import NONE, parents
from flowprof.profiler.store import Recording, read_sql
from numpy.typing import NDArray

Ints = NDArray[np.int64]
CODES = ("launch", "graph_launch", "copy", "memset", "synchronize", "event_record", "event_wait", "event_query",
         "allocate", "free", "collective", "group", "capture_begin", "capture_end", "graph_instantiate")  # fmt: skip
WORKS = ("launch", "graph_launch", "copy", "memset")
UNKNOWN = -(1 << 63)  # a stream, a size or an address that the recording does not say; also: of no stream
RUNTIME, DRIVER, NCCL = range(3)  # as cuda_calls.sql numbers the kinds
_TO_HOST = 2  # likewise, of directions
_NOT_READY = {600, 34}  # cudaErrorNotReady (as CUDA_ERROR_NOT_READY), and its number before CUDA 10.1: no errors
WINDOW_SQL = "SELECT start_ns, end_ns, level IN ('op', 'thread') FROM probe_window ORDER BY start_ns"
NAME_SQL = "SELECT DISTINCT name FROM api_call WHERE kind IN ('runtime', 'driver', 'nccl') ORDER BY name"
KERNEL_SQL = """
SELECT name FROM device_call WHERE name IS NOT NULL
UNION SELECT name FROM gpu_work WHERE kind IN ('kernel', 'collective') AND launch_id IS NOT NULL AND name IS NOT NULL
ORDER BY name
"""


@dataclass(slots=True)
class Calls:
    """Rows of cuda_calls.sql that count, by process, thread and start; texts are numbers into `names` and `kernels`.

    stream: what the call put work into; of a call that waits, what it waited for is in `waited_for`, up to `until_ns`.
    kernels: of a graph_launch, how many it launches (cuda_graphs.py), or UNKNOWN.
    """

    columns: dict[str, Any]
    names: list[str]  # of functions
    kernels: list[str]
    total: int
    nested: int
    failures: tuple[tuple[str, int, int], ...]  # function, error, calls
    launches_in_nccl: bool
    captured: int  # launches that became part of a graph, and did not run

    @property
    def host_ns(self) -> Ints:
        """Time inside each call."""
        return np.asarray(self.columns["end_ns"] - self.columns["start_ns"])

    def is_(self, *what: str) -> NDArray[np.bool_]:
        """Which calls are of these kinds."""
        return np.isin(self.columns["what"], [CODES.index(one) for one in what])

    def asynchronous(self) -> NDArray[np.bool_]:
        """Which calls are of functions that are asynchronous by name."""
        return np.asarray(np.array(["Async" in name for name in self.names], bool)[self.columns["api_id"]])

    def of(self, chosen: NDArray[np.bool_]) -> Calls:
        """Some of the calls."""
        columns = {name: column[chosen] for name, column in self.columns.items()}
        return replace(self, columns=columns)

    def span(self) -> tuple[int, int]:
        """First start and last end; (0, 0) without calls."""
        if not len(self.columns["start_ns"]):
            return 0, 0
        return int(self.columns["start_ns"].min()), int(self.columns["end_ns"].max())

    def grouped(self, *by: str) -> list[tuple[tuple[int, ...], int, int, int]]:
        """(key, calls, ns inside them, ns of the longest) by the columns `by`."""
        if not len(self.columns["start_ns"]):
            return []
        keys, group = np.unique(np.stack([self.columns[name] for name in by]), axis=1, return_inverse=True)
        group = group.reshape(-1)
        number = np.bincount(group)
        total = np.zeros(len(number), np.int64)
        longest = np.zeros(len(number), np.int64)
        np.add.at(total, group, self.host_ns)
        np.maximum.at(longest, group, self.host_ns)
        return [
            (tuple(key), calls, ns, most)
            for key, calls, ns, most in zip(
                keys.T.tolist(), number.tolist(), total.tolist(), longest.tolist(), strict=True
            )
        ]

    def works(self) -> NDArray[np.bool_]:
        """Calls that put work into a queue. Collectives stand for their kernels where nobody saw these launched."""
        return self.is_(*WORKS) if self.launches_in_nccl else self.is_(*WORKS, "collective")

    def next_work(self, rows: Ints) -> Ints:
        """Of each row, the next call of its thread that puts work into a queue; -1: none, or it waits again first."""
        stops = np.flatnonzero(self.works() | self.is_("synchronize"))
        following = np.append(stops, -1)[np.searchsorted(stops, rows, "right")]
        works = self.works()
        same = (following >= 0) & works[following]
        for name in ("unit", "tid"):
            same &= self.columns[name][following] == self.columns[name][rows]
        return np.where(same, following, -1)


@once
def read(recording: Recording) -> Calls:
    """All calls of a recording that count."""
    rows = recording.columns(read_sql("cuda_calls.sql"), {"codes": list(CODES)})
    columns = _by_window({name: _filled(column) for name, column in rows.items()}, recording)
    columns["inner"] = _nested(columns)
    single = (columns["what"] == CODES.index("launch")) & (columns["result"] <= 0) & ~columns["inner"]
    columns["kernels"] = cuda_graphs.kernels(columns, single, CODES, UNKNOWN)
    columns = {name: column[columns["unit"] != 0] for name, column in columns.items()}
    names = [str(name) for (name,) in recording.rows(NAME_SQL)]
    kernels = [str(name) for (name,) in recording.rows(KERNEL_SQL)]
    total = len(columns["pid"])
    inner = columns["inner"]
    within_nccl = _within(columns, columns["kind"] == NCCL) != NONE
    launches_in_nccl = bool((within_nccl & (columns["what"] == CODES.index("launch")) & ~inner).any())
    failed = ~inner & (columns["result"] > 0)
    failed &= ~((columns["what"] == CODES.index("event_query")) & np.isin(columns["result"], list(_NOT_READY)))
    pairs, calls = np.unique(
        np.stack([columns["api_id"][failed], columns["result"][failed]]), axis=1, return_counts=True
    )
    failures = sorted(
        ((names[api], error, number) for (api, error), number in zip(pairs.T.tolist(), calls.tolist(), strict=True)),
        key=lambda one: -one[2],
    )
    works = np.isin(columns["what"], [CODES.index(what) for what in WORKS])
    captured = works & _captured(columns)
    kept = ~inner & ~failed & ~captured
    launched = (captured & ~inner & (columns["what"] == CODES.index("launch"))).sum()
    columns = {name: column[kept] for name, column in columns.items()}
    found = Calls(columns, names, kernels, total, int(inner.sum()), tuple(failures), launches_in_nccl, int(launched))
    _say_what_is_known(found)
    return found


def _by_window(columns: dict[str, Any], recording: Recording) -> dict[str, Any]:
    """Calls with `unit`: a number for each process and stretch without a gap in which launches were probed, 0 outside.

    Around a window some probes are in place and others not yet, or not any more. An import has no windows.
    """
    stretches: list[list[int]] = []
    follows = False
    for start, end, deep in recording.rows(WINDOW_SQL):
        if deep and follows:
            stretches[-1][1] = end
        elif deep:
            stretches.append([start, end])
        follows = deep
    segment = np.ones(len(columns["pid"]), np.int64)
    if stretches:
        begin, end = (np.array(column, np.int64) for column in zip(*stretches, strict=True))
        segment = np.searchsorted(begin, columns["start_ns"], "right")
        inside = (segment > 0) & (columns["end_ns"] <= end[np.maximum(segment, 1) - 1])
        elsewhere = np.searchsorted(begin, columns["recorded_ns"], "right") != segment
        for name in ("recorded_stream", "recorded_ns"):  # the event may have been recorded again in between
            columns[name] = np.where(elsewhere, UNKNOWN, columns[name])
        segment = np.where(inside, segment, 0)
    unit = columns["pid"].astype(np.int64) * (len(stretches) + 2) + segment
    return columns | {"unit": np.where(segment > 0, unit, 0)}


def queues(calls: Calls) -> dict[int, Queue]:
    """Streams of one process and segment: their work, and what is known of it. An unknown stream's is under UNKNOWN."""
    columns, works = calls.columns, calls.works()
    waits = np.flatnonzero(columns["until_ns"] != UNKNOWN)
    at, until, of = columns["end_ns"][waits], columns["until_ns"][waits], columns["waited_for"][waits]
    streams = np.unique(columns["stream"][works]).tolist()
    done = {}
    for stream in {*streams, *np.unique(of).tolist()} - {UNKNOWN}:
        mine = (of == stream) | (of == UNKNOWN)
        done[stream] = Completions.of(at[mine], until[mine])
    ordered = calls.is_("event_wait") & (columns["recorded_stream"] != UNKNOWN) & (columns["stream"] != UNKNOWN)
    follow(done, columns["stream"][ordered], columns["end_ns"][ordered], columns["recorded_stream"][ordered],
           columns["recorded_ns"][ordered])  # fmt: skip
    nothing = Completions.of(np.empty(0, np.int64), np.empty(0, np.int64))
    found = {}
    for stream in streams:
        mine = works & (columns["stream"] == stream)
        found[stream] = Queue(np.sort(columns["start_ns"][mine]), np.sort(columns["end_ns"][mine]),
                              done.get(stream, nothing))  # fmt: skip
    return found


def all_empty(queues: dict[int, Queue], first_ns: int) -> tuple[Ints, Ints]:
    """Stretches in which every stream that had been used was known to be empty, up to the last call that queued work.

    queues: as `queues` found them; first_ns: the first call. Nothing is said of work whose stream is not known.
    """
    used = {stream: queue for stream, queue in queues.items() if len(queue.start_ns)}
    if not used or UNKNOWN in used:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    last = max(int(queue.start_ns[-1]) for queue in used.values())
    busy_start, busy_end = [np.array([first_ns])], [np.array([min(int(q.start_ns[0]) for q in used.values())])]
    for queue in used.values():
        begin, end = queue.drained()
        after = queue.empty_since()  # behind its last work, if ever
        busy_start.append(np.concatenate(([queue.start_ns[0]], end)))
        busy_end.append(np.append(begin, last if after is None else min(after, last)))
    return intervals.gaps(np.concatenate(busy_start), np.concatenate(busy_end), first_ns, last)


def _filled(column: Any) -> Any:
    return np.ma.filled(column.astype(np.int64), UNKNOWN) if isinstance(column, np.ma.MaskedArray) else column


def _captured(columns: dict[str, Any]) -> NDArray[np.bool_]:
    """Calls while their thread captures a graph: since the beginning of the capture, or of the window, where that is
    not in it, and likewise to its end.
    """
    rows = len(columns["pid"])
    change = (columns["what"] == CODES.index("capture_begin")).astype(np.int64)
    change -= columns["what"] == CODES.index("capture_end")
    if not change.any():
        return np.zeros(rows, bool)
    line = np.stack([columns["unit"], columns["tid"]])
    first = np.flatnonzero(np.concatenate(([True], (np.diff(line) != 0).any(axis=0))))
    open_ = np.cumsum(change)
    open_ -= np.repeat(open_[first] - change[first], np.diff(np.append(first, rows)))  # each line begins with none
    missing = np.minimum(np.minimum.reduceat(open_, first), 0)  # ends whose beginning is not there
    found: NDArray[np.bool_] = open_ - np.repeat(missing, np.diff(np.append(first, rows))) > 0
    return found


def _within(columns: dict[str, Any], outer: NDArray[np.bool_]) -> Ints:
    """Row of the innermost of the `outer` calls around each call on its thread."""
    another = (np.diff(columns["pid"]) != 0) | (np.diff(columns["tid"]) != 0)  # rows are in their order
    line = np.concatenate(([0], np.cumsum(another)))[: len(outer)].astype(np.int64)
    around, _ = parents(line, columns["start_ns"], columns["end_ns"], outer)
    return around


def _nested(columns: dict[str, Any]) -> NDArray[np.bool_]:
    """Calls that are part of another: the driver's within the runtime's, and calls within one that does the same."""
    inner = np.zeros(len(columns["pid"]), bool)
    for kind, outer in ((RUNTIME, RUNTIME), (DRIVER, RUNTIME), (DRIVER, DRIVER)):
        around = _within(columns, columns["kind"] == outer)
        found = (columns["kind"] == kind) & (around != NONE)
        if kind == outer:
            found &= columns["what"] == columns["what"][np.maximum(around, 0)]
        inner |= found
    return inner


def _say_what_is_known(calls: Calls) -> None:
    """Add `waited_for` and `until_ns`: which stream is complete when a call returns, up to when (UNKNOWN: not said).

    A wait without a stream of its own is for the device, unless it is for an event. A wait for an event whose record
    was not seen is for no stream that is known.
    """
    columns = calls.columns
    rows = len(columns["pid"])
    waited, until = np.full(rows, UNKNOWN), np.full(rows, UNKNOWN)
    waits = calls.is_("synchronize")
    of_event = np.array(["Event" in name for name in calls.names], bool)[columns["api_id"]] if rows else waits
    of_stream = np.array(["Stream" in name for name in calls.names], bool)[columns["api_id"]] if rows else waits
    plain = waits & ~of_event & (~of_stream | (columns["stream"] != UNKNOWN))
    waited[plain], until[plain] = columns["stream"][plain], columns["start_ns"][plain]
    done = (waits & of_event) | (calls.is_("event_query") & (columns["result"] == 0))
    done &= columns["recorded_stream"] != UNKNOWN
    waited[done], until[done] = columns["recorded_stream"][done], columns["recorded_ns"][done]
    copied = calls.is_("copy") & ~calls.asynchronous() & (columns["direction"] == _TO_HOST)
    copied &= columns["stream"] != UNKNOWN
    waited[copied], until[copied] = columns["stream"][copied], columns["end_ns"][copied]
    columns["waited_for"], columns["until_ns"] = waited, until
