"""What bounds operators and phases."""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.findings import Confidence
from flowprof.profiler.machine.ceilings import Ceiling
from flowprof.profiler.sections.bound import Bound
from flowprof.profiler.sections.coverage import Coverage


@dataclass(frozen=True, slots=True)
class OperatorThread:
    """One pool thread's time in a group's operators, of the calls in thread windows: the parts add up to `wall_ns`.

    Parts that the scheduler tells are None where it was not recorded: then they are in work and barrier.
    """

    pid: int
    driver_tid: int  # the thread that drives the graphs
    thread: int  # its place in the pool
    wall_ns: int
    work_ns: int
    barrier_spin_ns: int
    barrier_blocked_ns: int | None  # asleep at the barrier
    runnable_ns: int | None  # wanted a processor and had none
    blocked_ns: int | None
    fault_ns: int | None

    @property
    def ith(self) -> int:
        """As threads of pools are called elsewhere."""
        return self.thread


@dataclass(frozen=True, slots=True)
class Verdict:
    """What bounds a group of like operators: one phase, block, operator and shape. Rates are of the mean call."""

    phase: str
    block: str
    op: str
    shape: str  # 2048x5632 q8_0 · n=1: weight, its type, rows; else the result
    context: tuple[int, int] | None  # attention: fewest and most cache rows that a call read
    tensors: tuple[str, ...]  # names without the layer's number, most time first
    layers: int  # how many layers have it; 0 outside
    calls: int  # scaled to the whole recording
    measured_calls: int
    measured_ns: int
    share: float  # of the phase's time inside graphs
    ns_per_call: float  # mean, wall time on the first thread
    ns_per_token: float | None
    bound: Bound
    confidence: Confidence
    served: str  # what serves its bytes: DRAM, cache, cache or DRAM; "" unknown
    gflops: float | None  # achieved, 1e9 operations/s; a multiply-add is two
    gbps: float | None  # achieved, 1e9 bytes/s
    intensity: float | None  # operations per byte
    ceiling: str  # the nearer one: dram_read, llc_read, l2_read, gemm int8 …; "" none
    ceiling_value: float | None  # bytes/s or operations/s
    ceiling_share: float | None  # reached of it: 1 is at the ceiling; above 1 the ceiling is wrong
    floor_ns: float | None  # of a call, by the ceilings
    headroom_ns_per_token: float | None  # measured - floor
    wait: str  # the larger wait in words; "" none, or none recorded
    wait_share: float | None  # of the time; None: not recorded
    evidence: tuple[str, ...]
    threads: tuple[OperatorThread, ...]  # none without thread windows
    slowest_thread: int | None  # for which the others wait; None: not known, or threads are late in turns
    imbalance_ns: int | None  # how much later than the mean the last thread came to the barriers; None: not known
    wait_state: str = ""  # of `wait`, as of threads off the processor: runnable, fault, …; "" a barrier, or none


@dataclass(frozen=True, slots=True)
class PhaseBound:
    """What the ceilings allow a phase, weights read once per graph, and how much of that is reached."""

    phase: str
    limit: Bound  # compute, memory-dram, memory-cache; unknown: which of the caches serves the weights is open
    tokens_per_s: float  # reached, inside the measured graphs
    bound_tokens_per_s: float  # Σ over operators of the larger of their two terms
    fraction: float  # reached / bound; above 1 a ceiling is wrong
    memory_tokens_per_s: float | None  # by weights and KV cache alone
    compute_tokens_per_s: float | None  # by FLOPs alone
    weight_bytes: float  # per graph execution
    kv_bytes: float  # likewise
    flops_per_token: float
    tokens_per_graph: float
    floor_ns_per_token: float
    headroom_ns_per_token: float
    graphs_measured: int
    unknown_share: float  # of the measured time: operators that the floor leaves out
    by_bound: tuple[tuple[Bound, float], ...]  # share of the phase's time inside graphs, largest first
    confidence: Confidence
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerdictTable:
    rows: tuple[Verdict, ...]  # by phase, then by time
    phases: tuple[PhaseBound, ...]
    ceilings: tuple[Ceiling, ...]  # that were compared with
    coverage: tuple[Coverage, ...]
    fixed_ns: float | None  # what an operator costs here that does next to nothing; None: no such operator
    llc_bytes: int | None  # last-level cache of the recorded machine; None: not recorded
    scheduler: bool  # waits off the processor were recorded, all but a few
    withheld: bool  # losses above the limit: every verdict is "unknown"
    built_for: tuple[str, ...]  # instruction sets that the engine's kernels use; none: it does not say
    left_unused: tuple[str, ...]  # those of the processor that multiply int8 better, best first
    notes: tuple[str, ...]
