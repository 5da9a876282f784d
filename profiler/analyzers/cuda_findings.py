"""What CUDA's host side is worth saying: thresholds, words, evidence. Prices are ms of the host, never the GPU's.

Where the recording holds the GPU's own timeline, that says when it was idle (gpu.py): what follows from the host alone
is left out.
"""

from __future__ import annotations

from flowprof.profiler.findings import Finding, in_ms, part_of
from flowprof.profiler.sections.cuda_host import CudaHost, CudaSerialised, stream_name

DRAINED = LAUNCHES = 0.10  # of the time
SERIALISED = PAGEABLE = 0.05
ALLOCATOR, ALLOCATIONS = 0.02, 20
OFTEN = 3  # calls that hold back the same stream: once or twice is no habit
WAITS = 0.5
FAILED = 0.01  # of the calls


def findings(host: CudaHost) -> tuple[Finding, ...]:
    found = [_failed(host), _allocator(host)]
    if not host.gpu_observed:
        found += [_pageable(host), _waits(host)]
    if not host.gpu_observed and not host.lost:
        found += [_drained(host), _launch_bound(host), _serialised(host)]
    return tuple(finding for finding in found if finding is not None)


def _drained(host: CudaHost) -> Finding | None:
    if not host.span_ns or host.drained_ns < DRAINED * host.span_ns:
        return None
    worst = max(host.streams, key=lambda one: one.drained_ns)
    return Finding(
        id="cuda_host.drained",
        claim=f"The GPU had nothing to do for {part_of(host.drained_ns, host.span_ns)}, at least: it waited for the "
        "host",
        confidence="high",
        evidence=(
            "every stream that was used was known to be complete, and no work was queued",
            f"stream {stream_name(worst.stream)}: empty {worst.drained} times, longest "
            f"{in_ms(worst.longest_drained_ns)}",
        ),
        advice="Queue the next work before waiting for the last, launch small kernels in a CUDA graph, or move work of "
        "the host to another thread.",
        severity="problem",
    )


def _launch_bound(host: CudaHost) -> Finding | None:
    if not host.span_ns or host.burst_ns < LAUNCHES * host.span_ns:
        return None
    each = host.burst_ns / host.burst_launches
    return Finding(
        id="cuda_host.launch_bound",
        claim=f"{host.burst_launches} launches set the pace for {part_of(host.burst_ns, host.span_ns)}: the GPU was "
        "done as soon as they were queued",
        confidence="high",
        evidence=(
            f"{host.bursts} runs: {each / 1e3:.3g} µs a launch; on average a kernel took no longer",
            f"{in_ms(host.launch_ns)} of host time inside {host.launches + host.graph_launches} launching calls",
        ),
        advice="Launch a CUDA graph instead, fuse small kernels (torch.compile), or batch more.",
        severity="problem",
    )


def _serialised(host: CudaHost) -> Finding | None:
    found = once_for_each_pair(tuple(one for one in host.serialised if one.calls >= OFTEN and not one.copies))
    total = sum(one.held_ns for one in found)
    if not host.span_ns or total < SERIALISED * host.span_ns:
        return None
    worst = found[0]
    return Finding(
        id="cuda_host.serialised",
        claim=f"{worst.function} for {_waited(worst)} holds back stream {stream_name(worst.held_back)}: up to "
        f"{part_of(total, host.span_ns)} could run side by side",
        confidence="medium",
        evidence=(
            *(
                f"{one.calls} calls of {one.function} ({_waited(one)}), then work for stream "
                f"{stream_name(one.held_back)}, which was empty and waited for no event: at most {in_ms(one.held_ns)}"
                for one in found[:3]
            ),
            "whether the host needed a result in between is not seen from outside",
        ),
        advice="If that work does not need what the host waits for, queue it before the wait; else let its stream "
        "wait for an event (cudaStreamWaitEvent) in place of the host.",
        severity="problem",
    )


def _waited(one: CudaSerialised) -> str:
    return "the whole device" if one.waited_for is None else f"stream {stream_name(one.waited_for)}"


def once_for_each_pair(pairs: tuple[CudaSerialised, ...]) -> list[CudaSerialised]:
    """Of two streams that hold back each other only the dearer: the time can be saved once."""
    seen: set[tuple[int, frozenset[int | None]]] = set()
    found = []
    for one in pairs:
        key = one.pid, frozenset((one.waited_for, one.held_back))
        if key not in seen:
            seen.add(key)
            found.append(one)
    return found


def _pageable(host: CudaHost) -> Finding | None:
    slow = [one for one in host.copies if one.host_memory == "pageable"]
    held = sum(one.host_ns for one in slow)
    if not host.span_ns or held < PAGEABLE * host.span_ns:
        return None
    return Finding(
        id="cuda_host.pageable",
        claim=f"Copies from or to pageable memory hold the host for {part_of(held, host.span_ns)}",
        confidence="high",
        evidence=tuple(
            f"{one.calls} copies {one.direction}: {_size(one.size_bytes)}, {in_ms(one.host_ns)} of host time"
            for one in slow[:4]
        ),
        advice="Copy from pinned memory (cudaHostAlloc, pin_memory=True) with cudaMemcpyAsync: pageable memory is "
        "staged, and the host waits for it.",
        severity="problem",
    )


def _size(size_bytes: int | None) -> str:
    return "size not known" if size_bytes is None else f"{size_bytes / 1e6:.3g} MB"


def _allocator(host: CudaHost) -> Finding | None:
    used = host.allocator
    calls = used.allocations + used.frees
    if not host.span_ns or calls < ALLOCATIONS or used.host_ns < ALLOCATOR * host.span_ns:
        return None
    return Finding(
        id="cuda_host.allocator",
        claim=f"{used.allocations} allocations and {used.frees} frees hold the host for "
        f"{part_of(used.host_ns, host.span_ns)}",
        confidence="high",
        evidence=(
            f"allocated: {_size(used.size_bytes)}"
            + (
                ""
                if used.repeated is None
                else f"; {used.repeated} of {used.allocations} allocations had a size that was allocated before"
            ),
        ),
        advice="Keep the memory: a pool of your own, PyTorch's caching allocator, or cudaMallocAsync. cudaFree may "
        "wait for the whole device.",
        severity="problem",
    )


def _waits(host: CudaHost) -> Finding | None:
    if not host.span_ns or host.wait_ns < WAITS * host.span_ns or not host.waits or not host.streams:
        return None
    worst = host.waits[0]
    return Finding(
        id="cuda_host.waits",
        claim=f"Threads wait for the device for {part_of(host.wait_ns, host.span_ns)}: not the host sets the pace",
        confidence="high",
        evidence=(
            f"{worst.calls} calls of {worst.function}: {in_ms(worst.total_ns)}, longest {in_ms(worst.longest_ns)}",
            "GPU execution not observed: what the device did meanwhile is not known",
        ),
        advice="Record the GPU with torch.profiler or nsys and import the trace: flowprof import FILE.",
    )


def _failed(host: CudaHost) -> Finding | None:
    if not host.calls or host.failed < FAILED * (host.calls - host.nested):
        return None
    return Finding(
        id="cuda_host.failed",
        claim=f"{host.failed} of {host.calls - host.nested} CUDA calls returned an error",
        confidence="high",
        evidence=tuple(f"{function}: error {error}, {calls} times" for function, error, calls in host.failures[:5]),
        advice="Look up the error (cudaGetErrorString): a call that fails does nothing, and is not counted as work.",
        severity="problem",
    )
