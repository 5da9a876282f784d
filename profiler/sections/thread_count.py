"""Whether another number of threads would help."""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.sections.bound import Bound


@dataclass(frozen=True, slots=True)
class ThreadAdvice:
    """Whether another number of threads would help one phase of one process. Shares are of the threads' wall time."""

    phase: str
    pid: int
    threads: int  # of its largest pool
    processors: int  # that the process may use; 0 unknown
    work: float
    barrier: float
    runnable: float
    limit: Bound  # of the process's graphs of the phase
    direction: str  # more, fewer, keep, unknown
    wanted: int | None  # threads to try
    gain: float | None  # at most so many times as fast, by the ceilings
    reason: str
    settle: str  # what would decide it; "" nothing to decide
    evidence: tuple[str, ...]  # the ceilings that were compared, with their sources


@dataclass(frozen=True, slots=True)
class ThreadAdviceTable:
    rows: tuple[ThreadAdvice, ...]
