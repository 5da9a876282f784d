"""Missed overlap as the host's calls of CUDA tell it, where nobody recorded the GPU.

How long a kernel runs is not known, and neither is what it reads. Two things are: when every stream was certainly empty
(cuda_streams.py), so that what the host did meanwhile is *exposed*; and when a call held the host back from giving work
to another stream, which was empty and waited for no event. That is *free*, at most what the call took, and at most what
the work took that was held back. Which resource either takes is not known, so nothing is taken off for interference.
"""

from __future__ import annotations

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.analyzers import cuda_host, cuda_work
from flowprof.profiler.analyzers.cuda_findings import once_for_each_pair
from flowprof.profiler.analyzers.cuda_work import Calls
from flowprof.profiler.findings import in_ms
from flowprof.profiler.intervals import Ints
from flowprof.profiler.sections.cuda_host import CudaSerialised, stream_name
from flowprof.profiler.sections.overlap import HostExposure, HostKind, HostTime, Overlap
from flowprof.profiler.store import Recording

CALLS = cuda_host.CALLS
LEAST = 0.01  # of the time from the first call to the last
KINDS: dict[HostKind, tuple[str, ...]] = {
    "launches": ("launch", "graph_launch"),
    "copies": ("copy", "memset"),
    "collectives": ("collective", "group"),
    "allocation": ("allocate", "free"),
    "waits": ("synchronize",),
}
OPERATOR_SQL = """
SELECT pid, tid, start_ns, end_ns FROM api_call WHERE kind = 'operator' AND end_ns > start_ns AND parent_id IS NULL
"""
ONE_STREAM = (
    "work of one stream: which kernels need each other is not in the calls, and when they ran was not recorded; import "
    "a GPU trace (flowprof import)"
)
Found = tuple[tuple[HostExposure, ...], tuple[Overlap, ...], tuple[str, ...]]


def overlaps(recording: Recording) -> Found:
    """Exposed host time by process; what could overlap; what is not advised, and why. Of a recording with calls of
    CUDA and without GPU work."""
    host = cuda_host.table(recording)
    if host.lost:
        return (), (), ("events were lost: when streams were empty is not certain",)
    pairs = once_for_each_pair(host.serialised)
    found = tuple(_overlap(one, host.span_ns) for one in pairs if one.held_ns >= max(1, LEAST * host.span_ns))
    small = sum(one.calls for one in pairs) - sum(one.count for one in found)
    why = [f"{small} calls held back another stream's work: would gain less than {LEAST * 100:.0f} %"] if small else []
    exposures = _exposures(recording)
    empty = sum(one.idle_ns for one in exposures)
    if empty >= LEAST * host.span_ns and empty:
        why.append(
            f"{in_ms(empty)} in which all streams were empty: whether the host's work then needed the results before "
            "it is not in the calls"
        )
    return exposures, found, (*why, ONE_STREAM)


def _overlap(one: CudaSerialised, span_ns: int) -> Overlap:
    waited = "the whole device" if one.waited_for is None else f"stream {stream_name(one.waited_for)}"
    said = "pageable copy" if one.copies else "synchronise"
    return Overlap(
        kind="free", what=f"work of stream {stream_name(one.held_back)} beside that of {waited}",
        culprit=f"{one.function} ({said})", device=None, count=one.calls, exposed_ns=one.held_ns, room_ns=one.held_ns,
        ideal_ns=one.held_ns, aware_ns=one.held_ns, split_ns=0, net_ns=one.held_ns, share=one.held_ns / span_ns,
        base_ns=span_ns, priced=False, told_by="" if one.copies else "cuda_host.serialised",
        reason=f"{said}: it held the host, which then gave work to a stream that was empty and waited for no event",
        confidence="low",
        evidence=(
            f"{one.calls} calls of {one.function}: at most {in_ms(one.held_ns)}, by the host's clock",
            "whether the host needed a result in between is not seen from outside",
            "GPU execution not observed: nothing is taken off for interference",
        ),
    )  # fmt: skip


def _exposures(recording: Recording) -> tuple[HostExposure, ...]:
    """By process, the longest first. elsewhere: what no thread was in a call or an operator for."""
    calls = cuda_work.read(recording)
    operators = recording.columns(OPERATOR_SQL)
    found = []
    for pid in np.unique(calls.columns["pid"]).tolist():
        mine = calls.of(calls.columns["pid"] == pid)
        span, empty = 0, [(np.empty(0, np.int64),) * 2]
        for unit in np.unique(mine.columns["unit"]).tolist():
            part = mine.of(mine.columns["unit"] == unit)
            first, last = part.span()
            span += last - first
            empty.append(cuda_work.all_empty(cuda_work.queues(part), first))
        start, end = (np.concatenate(column) for column in zip(*empty, strict=True))
        called = {name: column[operators["pid"] == pid] for name, column in operators.items()}
        kinds = _kinds(mine, called)
        begins, ends = (np.concatenate(column) for column in zip(*(own for _, own in kinds), strict=True))
        times = [
            HostTime(kind, intervals.length(*stretches), intervals.common(*stretches, start, end))
            for kind, stretches in kinds
        ]
        idle = intervals.length(start, end)
        rest = HostTime("elsewhere", max(0, span - intervals.length(begins, ends)),
                        idle - intervals.common(begins, ends, start, end))  # fmt: skip
        shown = tuple(time for time in (*times, rest) if time.busy_ns)
        found.append(HostExposure(int(pid), span, "streams empty", idle, shown))
    return tuple(sorted(found, key=lambda one: -one.span_ns))


def _kinds(calls: Calls, operators: dict[str, Ints]) -> list[tuple[HostKind, tuple[Ints, Ints]]]:
    """What the threads of a process were in; operators: less the calls that they make."""
    found: list[tuple[HostKind, tuple[Ints, Ints]]] = []
    start, end = calls.columns["start_ns"], calls.columns["end_ns"]
    for kind, what in KINDS.items():
        chosen = calls.is_(*what)
        found.append((kind, intervals.union(start[chosen], end[chosen])))
    own = [np.empty((2, 0), np.int64)]
    for tid in np.unique(np.asarray(operators["tid"])).tolist():
        around, within = operators["tid"] == tid, calls.columns["tid"] == tid
        since, until = (np.asarray(operators[name][around], np.int64) for name in ("start_ns", "end_ns"))
        own.append(np.stack(intervals.without(since, until, start[within], end[within])))
    begins, ends = np.concatenate(own, axis=1)
    return [("operators", (begins, ends)), *found]
