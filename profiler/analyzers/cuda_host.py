"""What the host asks of its GPUs, per stream, from the calls of CUDA and NCCL alone: launches, copies, waits, memory.

A launch returns when the work is queued, so these times are the host's. When a GPU worked, and for how long, only an
imported trace can say; without one the report says "GPU execution not observed". What can be said:

    launch cost     host time inside the calls that launch kernels and graphs, and how many there are per second
    queue depth     pieces of work queued and not known to be complete: the queue held so many at most
    drained         a stream (or all that were used) is known to be empty, until work comes: the GPU cannot have worked
                    for this process then, and waited for the host; at least so much (cuda_streams.py: what is known)
    run             work between two drained stretches. All its kernels ran between its first launch and the return of
                    the wait that drained it: they took that long at most

A driver's call inside a runtime's call is the same call, and so is a runtime's inside another that does the same: the
outer one counts. Calls that returned an error caused no work, and neither did those that a graph captured. Where events
were lost nothing is certain of queues, and no finding is made of them. Shares are of the time from a process's first
call to its last. `graph_launch_share` counts launching calls; `graph_kernel_share` counts the kernels that graphs
launch, where all of these were captured while it was recorded (cuda_graphs.py).

* `cuda_host.drained`: all streams were empty, and the host was busy elsewhere, for 10 % of the time or more. Queue the
  next work before waiting for the last; put small launches into a CUDA graph; move work of the host to another thread.
* `cuda_host.launch_bound`: in runs of 20 launches or more the GPU was done as soon as the host had queued them, for
  10 % of the time or more. The launches set the pace: fuse kernels, batch more, or launch a graph.
* `cuda_host.serialised`: the host waited for one stream before it gave work to another one, which was empty and ordered
  by no event, for 5 % of the time or more. If the work does not need what the host waited for, queue it before the
  wait. A wait after a copy to the host is left out: the host may need what was copied.
* `cuda_host.pageable`: calls that copy from or to pageable memory held the host for 5 % of the time or more. Copy from
  pinned memory (cudaHostAlloc, pin_memory=True), asynchronously: others wait for staging, and overlap with nothing.
* `cuda_host.allocator`: 20 allocations and frees or more took 2 % of the time or more. Keep the memory: a pool,
  PyTorch's caching allocator, cudaMallocAsync; cudaFree may wait for the whole device.
* `cuda_host.waits`: threads wait for the device for half of the time or more: not the host sets the pace. Import a GPU
  trace to see what the device does meanwhile.
* `cuda_host.failed`: 1 % of the calls or more returned an error: such calls do nothing. See which function, and which
  error; the program may not look.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.analyzers import cuda_work
from flowprof.profiler.analyzers.contract import Analyzer, Need, Result, once
from flowprof.profiler.analyzers.cuda_findings import findings
from flowprof.profiler.analyzers.cuda_streams import Queue
from flowprof.profiler.analyzers.cuda_work import Calls
from flowprof.profiler.sections.cuda_host import (
    CudaAllocator,
    CudaCollective,
    CudaCopies,
    CudaHost,
    CudaKernel,
    CudaSerialised,
    CudaStream,
    CudaWait,
)  # fmt: skip
from flowprof.profiler.store import Recording

CALLS = Need(
    "SELECT count(*) > 0 FROM (SELECT 1 FROM api_call WHERE kind IN ('runtime', 'driver', 'nccl') LIMIT 1)",
    "no calls of CUDA; record a process that uses it",
)
RUN = 20  # launches in a run that is worth a word
KEPT_UP = 0.1  # of a run's time, at most, until it was complete after its last launch
SHORTEST_HOLD_NS = 20_000  # a wait that held back other work: below, it costs less than what else a call costs
ROWS = 200
NOT_OBSERVED = "GPU execution not observed: when the GPU worked is not known, only when it cannot have"
LOST = "events were lost: how long queues were, and when they were empty, is not certain, and nothing is made of it"
LOST_SQL = "SELECT coalesce(sum(events), 0) FROM loss WHERE place IN ('ring', 'calls')"
DIRECTIONS = ("", "HtoD", "DtoH", "DtoD", "HtoH")
MEMORIES = ("", "pageable", "pinned")
CONFIG_SQL = """
SELECT name, coalesce(mode(grid), ''), coalesce(mode(block), '')
FROM device_call WHERE what = 'launch' AND name IS NOT NULL GROUP BY name
"""


@once
def table(recording: Recording) -> CudaHost:
    calls = cuda_work.read(recording)
    queues: dict[tuple[int, int], list[tuple[int, Queue]]] = {}  # by process and stream: (ns of the unit, queue)
    serialised: list[CudaSerialised] = []
    runs: list[tuple[int, int]] = []
    span = drained = 0
    for unit in np.unique(calls.columns["unit"]).tolist():
        mine = calls.of(calls.columns["unit"] == unit)
        pid, (first, last) = int(mine.columns["pid"][0]), mine.span()
        found = cuda_work.queues(mine)
        span += last - first
        drained += intervals.length(*cuda_work.all_empty(found, first))
        serialised += _serialised(mine, pid, found)
        for stream, queue in found.items():
            own = mine.of((mine.columns["stream"] == stream) | (mine.columns["waited_for"] == stream)).span()
            queues.setdefault((pid, stream), []).append((own[1] - own[0], queue))
            runs += _runs(mine, stream, queue)
    launching, host = calls.is_("launch", "graph_launch"), calls.host_ns
    graphs = int(calls.is_("graph_launch").sum())
    streams = [_stream(calls, pid, stream, parts) for (pid, stream), parts in queues.items()]
    inside = calls.columns["kernels"][calls.is_("graph_launch")]
    inside = inside[inside != cuda_work.UNKNOWN]
    in_graphs, single = int(inside.sum()), int(launching.sum()) - graphs
    lost = int(recording.rows(LOST_SQL)[0][0])
    observed = bool(recording.rows("SELECT count(*) > 0 FROM gpu_work")[0][0])
    return CudaHost(
        streams=tuple(sorted(streams, key=lambda one: -(one.launches + one.graph_launches))[:ROWS]),
        waits=_waits(calls),
        copies=_copies(calls),
        kernels=_kernels(calls, recording),
        collectives=_collectives(recording),
        serialised=_merged(serialised),
        allocator=_allocator(calls),
        calls=calls.total,
        nested=calls.nested,
        failed=sum(number for _, _, number in calls.failures),
        failures=calls.failures[:10],
        span_ns=span,
        launches=single,
        captured=calls.captured,
        launch_ns=int(host[launching].sum()),
        graph_launches=graphs,
        graph_launch_share=graphs / int(launching.sum()) if launching.any() else None,
        graph_kernels=in_graphs,
        graph_launches_known=len(inside),
        graph_kernel_share=in_graphs / (in_graphs + single) if graphs and graphs == len(inside) and in_graphs else None,
        wait_ns=int(host[calls.is_("synchronize")].sum()),
        drained_ns=drained,
        bursts=len(runs),
        burst_launches=sum(launches for launches, _ in runs),
        burst_ns=sum(ns for _, ns in runs),
        gpu_observed=observed,
        lost=lost,
        notes=((() if observed else (NOT_OBSERVED,)) + ((f"{lost} {LOST}",) if lost else ())),
    )


# ---------------------------------------------------------------------- streams


def _stream(calls: Calls, pid: int, stream: int, parts: list[tuple[int, Queue]]) -> CudaStream:
    columns = calls.columns
    mine = calls.of((columns["pid"] == pid) & (columns["stream"] == stream))
    launch_ns = mine.host_ns[mine.is_("launch", "graph_launch")]
    drained = [queue.drained() for _, queue in parts]
    gaps = np.concatenate([end - begin for begin, end in drained])
    waits = calls.is_("synchronize") & (columns["pid"] == pid) & (columns["waited_for"] == stream)
    copied = mine.columns["bytes"][mine.is_("copy")]
    span = sum(ns for ns, _ in parts)
    return CudaStream(
        pid=pid,
        stream=_stream_or_none(stream),
        launches=int(mine.is_("launch").sum()),
        graph_launches=int(mine.is_("graph_launch").sum()),
        copies=len(copied),
        memsets=int(mine.is_("memset").sum()),
        collectives=int(mine.is_("collective").sum()),
        copied_bytes=_bytes(copied) or 0,
        span_ns=span,
        launches_per_s=len(launch_ns) / span * 1e9 if len(launch_ns) > 1 and span else None,
        launch_ns=float(launch_ns.mean()) if len(launch_ns) else None,
        launch_p99_ns=float(np.percentile(launch_ns, 99)) if len(launch_ns) else None,
        depth=max(queue.depth() for _, queue in parts),
        drained_ns=int(gaps.sum()),
        drained=len(gaps),
        longest_drained_ns=int(gaps.max()) if len(gaps) else 0,
        waits=int(waits.sum()),
        wait_ns=int(calls.host_ns[waits].sum()),
    )


def _runs(calls: Calls, stream: int, queue: Queue) -> list[tuple[int, int]]:
    """(launches, ns) of runs that the device kept up with."""
    launches = calls.of((calls.columns["stream"] == stream) & calls.is_("launch"))
    begin, _, end_ns, done_ns = queue.runs()
    start_ns = queue.start_ns[begin]
    starts = launches.columns["start_ns"]
    number = np.searchsorted(starts, end_ns, "right") - np.searchsorted(starts, start_ns, "left")
    kept_up = (number >= RUN) & (done_ns - end_ns <= KEPT_UP * (end_ns - start_ns))
    return list(zip(number[kept_up].tolist(), (done_ns - start_ns)[kept_up].tolist(), strict=True))


def _serialised(calls: Calls, pid: int, queues: dict[int, Queue]) -> list[CudaSerialised]:
    """Waits, and copies that hold the host like one, whose thread then gave work to a stream that had been empty all
    the time, with nothing that orders them."""
    columns = calls.columns
    start_ns, end_ns, stream = columns["start_ns"], columns["end_ns"], columns["stream"]
    copied = calls.is_("copy") & calls.asynchronous() & (columns["host_memory"] == MEMORIES.index("pageable"))
    waited_for = np.where(copied, stream, columns["waited_for"])
    waits = np.flatnonzero((calls.is_("synchronize") | copied) & (calls.host_ns >= SHORTEST_HOLD_NS))
    works = calls.next_work(waits)
    waits, works = waits[works >= 0], works[works >= 0]
    to_host = calls.is_("copy") & (columns["direction"] == DIRECTIONS.index("DtoH"))
    held: dict[tuple[int, int, int, bool], tuple[int, int]] = {}
    for work_stream in np.unique(stream[works]).tolist():
        mine = (stream[works] == work_stream) & (waited_for[waits] != work_stream)
        wait, work, queue = waits[mine], works[mine], queues[work_stream]
        begins, ends = queue.drained()
        at = np.searchsorted(begins, start_ns[wait], "right") - 1
        empty_since, empty_until = np.append(begins, 0)[at], np.append(ends, 0)[at]
        independent = (at >= 0) & (empty_until >= start_ns[work])
        orders = np.sort(start_ns[calls.is_("event_wait") & (stream == work_stream)])
        independent &= ~_any_between(orders, empty_since, start_ns[work])
        for waited in np.unique(waited_for[wait]).tolist():
            copies = to_host if waited == cuda_work.UNKNOWN else to_host & (stream == waited)
            chosen = waited_for[wait] == waited
            independent[chosen] &= ~_any_between(np.sort(start_ns[copies]), empty_since[chosen], start_ns[wait][chosen])
        done_ns, known = queue.done.when(end_ns[work])
        could_ns = np.where(known, done_ns - start_ns[work], calls.host_ns[wait])  # the held work took no longer
        saved = np.minimum(calls.host_ns[wait], could_ns)
        for row in np.flatnonzero(independent).tolist():
            key = int(columns["api_id"][wait[row]]), int(waited_for[wait[row]]), work_stream, bool(copied[wait[row]])
            number, ns = held.get(key, (0, 0))
            held[key] = number + 1, ns + int(saved[row])
    return [
        CudaSerialised(pid, calls.names[api], _stream_or_none(waited), after, number, ns, copies)
        for (api, waited, after, copies), (number, ns) in held.items()
    ]


def _stream_or_none(stream: int) -> int | None:
    return None if stream == cuda_work.UNKNOWN else stream


def _merged(found: list[CudaSerialised]) -> tuple[CudaSerialised, ...]:
    """One row for each function and pair of streams, most time first."""
    rows: dict[tuple[int, str, int | None, int, bool], CudaSerialised] = {}
    for one in found:
        key = one.pid, one.function, one.waited_for, one.held_back, one.copies
        before = rows.get(key)
        rows[key] = one if before is None else replace(
            one, calls=one.calls + before.calls, held_ns=one.held_ns + before.held_ns
        )  # fmt: skip
    return tuple(sorted(rows.values(), key=lambda one: -one.held_ns)[:ROWS])


def _any_between(times: Any, begin: Any, end: Any) -> Any:
    """Whether any of the sorted `times` lies in [begin, end), for each pair."""
    return np.searchsorted(times, end, "left") > np.searchsorted(times, begin, "left")


# ---------------------------------------------------------------------- calls of a kind


def _waits(calls: Calls) -> tuple[CudaWait, ...]:
    mine = calls.of(calls.is_("synchronize"))
    rows = [
        CudaWait(pid, mine.names[api], _stream_or_none(stream), number, total, longest)
        for (pid, api, stream), number, total, longest in mine.grouped("pid", "api_id", "waited_for")
    ]
    return tuple(sorted(rows, key=lambda one: -one.total_ns)[:ROWS])


def _copies(calls: Calls) -> tuple[CudaCopies, ...]:
    mine = calls.of(calls.is_("copy"))
    rows = []
    for (direction, memory), number, total, _ in mine.grouped("direction", "host_memory"):
        chosen = (mine.columns["direction"] == direction) & (mine.columns["host_memory"] == memory)
        rows.append(CudaCopies(DIRECTIONS[direction], MEMORIES[memory], number,
                               _bytes(mine.columns["bytes"][chosen]), total))  # fmt: skip
    return tuple(sorted(rows, key=lambda one: -one.host_ns))


def _kernels(calls: Calls, recording: Recording) -> tuple[CudaKernel, ...]:
    mine = calls.of(calls.is_("launch"))
    sizes = {name: (grid, block) for name, grid, block in recording.rows(CONFIG_SQL)}
    rows = []
    for (kernel,), number, total, _ in sorted(mine.grouped("kernel_id"), key=lambda one: -one[1])[:ROWS]:
        name = calls.kernels[kernel] if kernel >= 0 else ""
        rows.append(CudaKernel(name, number, total, *sizes.get(name, ("", ""))))
    return tuple(rows)


def _collectives(recording: Recording) -> tuple[CudaCollective, ...]:
    return tuple(
        CudaCollective(*row)
        for row in recording.rows(
            "SELECT c.name, coalesce(d.communicator, 0), count(*), coalesce(sum(d.bytes), 0)::BIGINT, "
            "sum(c.end_ns - c.start_ns)::BIGINT AS ns FROM api_call c JOIN device_call d USING (call_id) "
            "WHERE d.what = 'collective' AND coalesce(d.result, 0) = 0 AND c.end_ns IS NOT NULL "
            f"GROUP BY ALL ORDER BY ns DESC, c.name LIMIT {ROWS}"
        )
    )


def _allocator(calls: Calls) -> CudaAllocator:
    allocations, frees = calls.of(calls.is_("allocate")), calls.of(calls.is_("free"))
    sizes = allocations.columns["bytes"]
    known = sizes[sizes != cuda_work.UNKNOWN]
    return CudaAllocator(
        allocations=len(sizes),
        frees=len(frees.host_ns),
        size_bytes=_bytes(sizes),
        repeated=len(known) - len(np.unique(known)) if len(known) or not len(sizes) else None,
        host_ns=int(allocations.host_ns.sum() + frees.host_ns.sum()),
    )


def _bytes(sizes: Any) -> int | None:
    """The sum of known sizes, exact however large a hostile program's are; None where of several none is known."""
    known = sizes[sizes != cuda_work.UNKNOWN].tolist()
    return sum(known) if known or not len(sizes) else None


def analyze(recording: Recording) -> Result:
    found = table(recording)
    return Result(found, findings(found))


ANALYZER = Analyzer("cuda_host", "CUDA calls", (CALLS,), analyze)
