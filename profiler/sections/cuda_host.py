"""What the analyzer of CUDA's host side hands to the viewers: frozen dataclasses, as in sections.py.

Times are the host's: a launch ends when the work is queued, and how long a GPU worked is in none of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CudaStream:
    """One stream of one process, from the calls that put work into it and those that waited for it."""

    pid: int
    stream: int | None  # its handle (0: the default stream), an import's number; None: the import does not say
    launches: int  # of single kernels
    graph_launches: int
    copies: int
    memsets: int
    collectives: int
    copied_bytes: int
    span_ns: int  # from the first call that put work into it to the last end of a call about it
    launches_per_s: float | None  # launches and graph launches over the span; None: one call
    launch_ns: float | None  # mean host time of a launch; None: no launch
    launch_p99_ns: float | None
    depth: int  # most pieces of work queued and not known to be complete: what was in the queue at most
    drained_ns: int  # of the span: known to be empty, until the next work was put into it
    drained: int  # how often
    longest_drained_ns: int
    waits: int  # calls that waited for it
    wait_ns: int


@dataclass(frozen=True, slots=True)
class CudaWait:
    """Calls of one function that waited for the device, about one stream."""

    pid: int
    function: str
    stream: int | None  # None: the whole device, or not known
    calls: int
    total_ns: int
    longest_ns: int


@dataclass(frozen=True, slots=True)
class CudaCopies:
    """Copies of one direction from or to one kind of host memory."""

    direction: str  # HtoD, DtoH, DtoD, HtoH; "" not known
    host_memory: str  # pageable, pinned; "" not known, or none
    calls: int
    size_bytes: int | None  # of those whose size is known; None: of none
    host_ns: int  # inside the calls


@dataclass(frozen=True, slots=True)
class CudaKernel:
    """Launches of one kernel."""

    name: str  # "" not known
    launches: int
    host_ns: int  # inside the launching calls
    grid: str  # most frequent; JSON [x, y, z], "" not recorded
    block: str


@dataclass(frozen=True, slots=True)
class CudaCollective:
    """Calls of one of NCCL's functions on one communicator."""

    function: str
    communicator: int
    calls: int
    size_bytes: int  # of this process's part
    host_ns: int


@dataclass(frozen=True, slots=True)
class CudaAllocator:
    """Allocations and frees of device and pinned host memory."""

    allocations: int
    frees: int
    size_bytes: int | None  # allocated, all calls; None: the sizes are not known
    repeated: int | None  # allocations of a size that was allocated before; likewise
    host_ns: int


@dataclass(frozen=True, slots=True)
class CudaSerialised:
    """A wait for one stream, or a copy for it, that held back work for another one, which was empty meanwhile."""

    pid: int
    function: str
    waited_for: int | None  # stream; None: the whole device
    held_back: int
    calls: int
    held_ns: int  # at most what starting that work before the wait would have saved
    copies: bool = False  # asynchronous copies of pageable memory, which hold the host all the same; no waits


@dataclass(frozen=True, slots=True)
class CudaHost:
    """What the host asked of its GPUs, all processes together."""

    streams: tuple[CudaStream, ...]  # most launches first
    waits: tuple[CudaWait, ...]  # longest first
    copies: tuple[CudaCopies, ...]
    kernels: tuple[CudaKernel, ...]  # most launches first
    collectives: tuple[CudaCollective, ...]
    serialised: tuple[CudaSerialised, ...]  # most time first
    allocator: CudaAllocator
    calls: int  # of CUDA and NCCL functions, nested ones included
    nested: int  # of the driver, inside the runtime's: counted as the runtime's
    failed: int  # returned an error: they caused no work
    failures: tuple[tuple[str, int, int], ...]  # function, error, calls; most first
    span_ns: int  # from the first call to the last, summed over processes
    launches: int
    captured: int  # launches that became part of a graph while it was captured, and are not among the others
    launch_ns: int  # host time inside launches and graph launches
    graph_launches: int
    graph_launch_share: float | None  # of launches and graph launches; None: neither
    graph_kernels: int  # that graph launches launched, as far as it is known
    graph_launches_known: int  # graph launches of which it is: their graph was captured while launches were recorded
    graph_kernel_share: float | None  # graph_kernels of these and launches; None: not known of every graph launch
    wait_ns: int  # host time inside waits, all threads
    drained_ns: int  # every stream that was used was known to be empty, until work came
    bursts: int  # runs of launches that the device kept up with: complete as soon as they were queued
    burst_launches: int
    burst_ns: int
    gpu_observed: bool  # the recording holds GPU work (an import)
    lost: int  # events that may have been calls: with one of them queued work may be missing
    notes: tuple[str, ...]


def stream_name(handle: int | None, imported: bool = False) -> str:
    """A stream as people know it: the default ones by name, handles as addresses, an import's numbers as they are."""
    if handle is None:
        return "unknown"
    if imported:
        return str(handle)
    special = {0: "default", 1: "legacy default", 2: "per-thread default"}
    return special.get(handle, str(handle) if 0 <= handle < 4096 else f"{handle & (1 << 64) - 1:#x}")
