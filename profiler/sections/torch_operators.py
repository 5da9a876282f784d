"""PyTorch's operators on the host: what each took, and what it reached of the machine's ceilings."""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.findings import Confidence
from flowprof.profiler.machine.ceilings import Ceiling
from flowprof.profiler.sections.bound import Bound


@dataclass(frozen=True, slots=True)
class TorchOperator:
    """All calls of one operator with one set of shapes."""

    name: str
    shape: str
    calls: int
    left: int  # calls that an exception left: their time is not known
    total_ns: int  # with what they called
    self_ns: int  # without
    share: float  # of the self times of all operators
    p50_ns: float  # of a call
    p99_ns: float
    flops_per_s: float | None
    bytes_per_s: float | None
    bound: Bound
    ceiling: str  # what the floor was taken from: "gemm f32", "dram_read", ""
    ceiling_share: float | None  # floor / time
    headroom_ns: int | None  # time less floor, of all calls
    confidence: Confidence
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TorchThread:
    """A thread that calls operators."""

    pid: int | None  # None: an imported trace that does not say
    tid: int | None
    name: str
    role: str  # main, autograd, inter-op, data loading, distributed, other
    calls: int
    top_ns: int  # within operators
    backward_ns: int  # of it, in a backward pass
    script_ns: int  # of it, in TorchScript
    compiled_ns: int  # of it, in a function that torch.compile made
    away_ns: int | None  # of it, off the processor; None: the scheduler was not recorded


@dataclass(frozen=True, slots=True)
class TorchOperators:
    rows: tuple[TorchOperator, ...]  # most self time first
    threads: tuple[TorchThread, ...]  # most time first
    calls: int
    self_ns: int  # of all operators
    observed_ns: int  # windows in which operators were recorded; imports: from the first call to the last
    probe_share: float | None  # of the observed time, that probes took: hits × cost of a hit; None: not measured
    running_threads: int  # that ceilings are for: threads that computed
    ceilings: tuple[Ceiling, ...]
    notes: tuple[str, ...]
