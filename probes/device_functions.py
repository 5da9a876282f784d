"""What the functions of CUDA and NCCL do, and which of the words that are captured when they begin says what.

A program captures four words (cuda.bpf.c); `words` names them:

    address, event   what the call is about          out    where the address of what is new will be written
    bytes, count     how much; of `item` bytes each   kind   cudaMemcpyKind      type   ncclDataType_t
    source_kind      where from, and the kind in its upper four bits
    stream, communicator, source, graph, kernel; "" is nothing
    function, grid, block, config: see the programs for launches
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Function:
    """One function. `what` as in the table device_call."""

    name: str
    what: str
    words: tuple[str, ...] = ()
    program: str = "device_call"
    args: int = 4  # argument registers that the program reads
    item: int = 1  # bytes that one of `count` is
    direction: str = ""
    pinned: bool = False  # memory of the host
    default_stream: bool = False  # no argument says which: the default one


_LAUNCH = ("function", "grid", "block", "stream")


def _launch(name: str) -> Function:
    return Function(name, "launch", _LAUNCH, "cuda_launch", 5)


def _copy(name: str, direction: str, stream: bool) -> Function:
    words = ("address", "source", "bytes", "stream" if stream else "")
    return Function(name, "copy", words, direction=direction, default_stream=not stream)


def _large_copy(name: str, program: str, args: int, direction: str = "") -> Function:
    """Of two or three dimensions, or between devices; `…Async` has a stream."""
    later = name.removesuffix("_v2").endswith("Async")
    words = ("address", "source" if direction else "source_kind", "bytes", "stream" if later else "")
    return Function(name, "copy", words, program, args, direction=direction, default_stream=not later)


def _captured(name: str) -> Function:
    return Function(name, "capture_end", ("stream", "out"), "graph_captured", 2)


def _instantiate(name: str) -> Function:
    return Function(name, "graph_instantiate", ("out", "graph"), "device_allocate")


RUNTIME: tuple[Function, ...] = (
    _launch("cudaLaunchKernel"),
    _launch("cudaLaunchCooperativeKernel"),
    Function("cudaLaunchKernelExC", "launch", _LAUNCH, "cuda_launch_config", 2),
    Function("cudaGraphLaunch", "graph_launch", ("address", "stream")),
    Function("cudaMemcpy", "copy", ("address", "source", "bytes", "kind"), default_stream=True),
    Function("cudaMemcpyAsync", "copy", ("address", "source_kind", "bytes", "stream"), "cuda_copy", 5),
    *(
        _large_copy(f"cudaMemcpy{what}{asynchronous}", program, args, direction)
        for what, program, args, direction in (
            ("2D", "cuda_copy_2d", 6, ""),
            ("3D", "cuda_copy_3d", 2, ""),
            ("Peer", "copy_peer", 6, "PtoP"),
            ("3DPeer", "cuda_copy_3d_peer", 2, "PtoP"),
        )
        for asynchronous in ("", "Async")
    ),
    Function("cudaMemset", "memset", ("address", "", "bytes"), default_stream=True),
    Function("cudaMemsetAsync", "memset", ("address", "", "bytes", "stream")),
    Function("cudaMalloc", "allocate", ("out", "bytes"), "device_allocate"),
    Function("cudaMallocManaged", "allocate", ("out", "bytes"), "device_allocate"),
    Function("cudaMallocAsync", "allocate", ("out", "bytes", "stream"), "device_allocate"),
    Function("cudaMallocFromPoolAsync", "allocate", ("out", "bytes", "", "stream"), "device_allocate"),
    Function("cudaFree", "free", ("address",)),
    Function("cudaFreeAsync", "free", ("address", "stream")),
    Function("cudaStreamSynchronize", "synchronize", ("stream",)),
    Function("cudaDeviceSynchronize", "synchronize"),
    Function("cudaEventSynchronize", "synchronize", ("event",)),
    Function("cudaEventRecord", "event_record", ("event", "stream")),
    Function("cudaEventRecordWithFlags", "event_record", ("event", "stream")),
    Function("cudaEventQuery", "event_query", ("event",)),
    Function("cudaStreamWaitEvent", "event_wait", ("stream", "event")),
)
GRAPHS: tuple[Function, ...] = (
    Function("cudaStreamBeginCapture", "capture_begin", ("stream",)),
    Function("cudaStreamBeginCaptureToGraph", "capture_begin", ("stream", "graph")),
    _captured("cudaStreamEndCapture"),
    _instantiate("cudaGraphInstantiate"),
    _instantiate("cudaGraphInstantiateWithFlags"),
    _instantiate("cudaGraphInstantiateWithParams"),
)
PINNED: tuple[Function, ...] = (
    Function("cudaHostAlloc", "allocate", ("out", "bytes"), "device_allocate", pinned=True),
    Function("cudaMallocHost", "allocate", ("out", "bytes"), "device_allocate", pinned=True),
    Function("cudaHostRegister", "allocate", ("address", "bytes"), pinned=True),
    Function("cudaFreeHost", "free", ("address",), pinned=True),
    Function("cudaHostUnregister", "free", ("address",), pinned=True),
)
DRIVER_FUNCTIONS: tuple[Function, ...] = (
    Function("cuModuleGetFunction", "function", ("out",), "function_named", 3),
    Function("cuLibraryGetKernel", "function", ("out",), "function_named", 3),
    Function("cuKernelGetFunction", "function", ("out", "kernel"), "device_allocate"),
)
DRIVER_LAUNCHES: tuple[Function, ...] = (
    Function("cuLaunchKernel", "launch", _LAUNCH, "cu_launch", 6),
    Function("cuLaunchCooperativeKernel", "launch", _LAUNCH, "cu_launch", 6),
    Function("cuLaunchKernelEx", "launch", _LAUNCH, "cu_launch_config", 2),
    Function("cuGraphLaunch", "graph_launch", ("address", "stream")),
)
DRIVER: tuple[Function, ...] = (
    Function("cuMemcpy", "copy", ("address", "source", "bytes"), default_stream=True),
    _copy("cuMemcpyAsync", "", True),
    _copy("cuMemcpyHtoD_v2", "HtoD", False),
    _copy("cuMemcpyDtoH_v2", "DtoH", False),
    _copy("cuMemcpyDtoD_v2", "DtoD", False),
    _copy("cuMemcpyHtoDAsync_v2", "HtoD", True),
    _copy("cuMemcpyDtoHAsync_v2", "DtoH", True),
    _copy("cuMemcpyDtoDAsync_v2", "DtoD", True),
    _large_copy("cuMemcpy2D_v2", "cu_copy_2d", 2),
    _large_copy("cuMemcpy2DUnaligned_v2", "cu_copy_2d", 2),
    _large_copy("cuMemcpy2DAsync_v2", "cu_copy_2d", 2),
    _large_copy("cuMemcpy3D_v2", "cu_copy_3d", 2),
    _large_copy("cuMemcpy3DAsync_v2", "cu_copy_3d", 2),
    *(
        _large_copy(f"cuMemcpy{what}{asynchronous}", program, args, "PtoP")
        for what, program, args in (("Peer", "copy_peer", 6), ("3DPeer", "cu_copy_3d_peer", 2))
        for asynchronous in ("", "Async")
    ),
    *(
        Function(f"cuMemsetD{bits}{asynchronous}", "memset", ("address", "", "count", "stream" if asynchronous != "_v2"
                 else ""), item=bits // 8, default_stream=asynchronous == "_v2")
        for bits in (8, 16, 32) for asynchronous in ("Async", "_v2")
    ),
    Function("cuMemAlloc_v2", "allocate", ("out", "bytes"), "device_allocate"),
    Function("cuMemAllocManaged", "allocate", ("out", "bytes"), "device_allocate"),
    Function("cuMemAllocAsync", "allocate", ("out", "bytes", "stream"), "device_allocate"),
    Function("cuMemFree_v2", "free", ("address",)),
    Function("cuMemFreeAsync", "free", ("address", "stream")),
    Function("cuStreamSynchronize", "synchronize", ("stream",)),
    Function("cuCtxSynchronize", "synchronize"),
    Function("cuEventSynchronize", "synchronize", ("event",)),
    Function("cuEventRecord", "event_record", ("event", "stream")),
    Function("cuEventQuery", "event_query", ("event",)),
    Function("cuStreamWaitEvent", "event_wait", ("stream", "event")),
)  # fmt: skip
DRIVER_GRAPHS: tuple[Function, ...] = (
    Function("cuStreamBeginCapture_v2", "capture_begin", ("stream",)),
    Function("cuStreamBeginCaptureToGraph", "capture_begin", ("stream", "graph")),
    _captured("cuStreamEndCapture"),
    _instantiate("cuGraphInstantiate_v2"),
    _instantiate("cuGraphInstantiateWithFlags"),
    _instantiate("cuGraphInstantiateWithParams"),
)
DRIVER_PINNED: tuple[Function, ...] = (
    Function("cuMemHostAlloc", "allocate", ("out", "bytes"), "device_allocate", pinned=True),
    Function("cuMemAllocHost_v2", "allocate", ("out", "bytes"), "device_allocate", pinned=True),
    Function("cuMemHostRegister_v2", "allocate", ("address", "bytes"), pinned=True),
    Function("cuMemFreeHost", "free", ("address",), pinned=True),
    Function("cuMemHostUnregister", "free", ("address",), pinned=True),
)

_COLLECTIVE = ("count", "type", "communicator", "stream")
NCCL: tuple[Function, ...] = (
    Function("ncclAllReduce", "collective", _COLLECTIVE, "nccl_reduce", 6),
    Function("ncclReduceScatter", "collective", _COLLECTIVE, "nccl_reduce", 6),
    Function("ncclBroadcast", "collective", _COLLECTIVE, "nccl_reduce", 6),
    Function("ncclReduce", "collective", _COLLECTIVE, "nccl_rooted", 6),
    Function("ncclAllGather", "collective", _COLLECTIVE, "nccl_gather", 6),
    Function("ncclSend", "collective", _COLLECTIVE, "nccl_send", 6),
    Function("ncclRecv", "collective", _COLLECTIVE, "nccl_send", 6),
    Function("ncclGroupStart", "group"),
    Function("ncclGroupEnd", "group"),
)

VARIANTS = ("", "_ptsz", "_ptds")  # built for a default stream per thread
PER_THREAD_STREAM = 2  # cudaStreamPerThread: what 0 is in those
NCCL_ITEM_BYTES = (1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1)  # by ncclDataType_t: int8, uint8, int32, … bfloat16, float8
FUNCTIONS: dict[str, Function] = {
    function.name + variant: function
    for group in (
        RUNTIME,
        GRAPHS,
        PINNED,
        DRIVER_FUNCTIONS,
        DRIVER_LAUNCHES,
        DRIVER,
        DRIVER_GRAPHS,
        DRIVER_PINNED,
        NCCL,
    )
    for function in group
    for variant in VARIANTS
}


def api_kind(name: str) -> str:
    """`runtime`, `driver` or `nccl`: the interface that a function belongs to."""
    return "nccl" if name.startswith("nccl") else "runtime" if name.startswith("cuda") else "driver"
