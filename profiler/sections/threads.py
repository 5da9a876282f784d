"""Pool threads: compute and barrier wait."""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.sections.coverage import Coverage


@dataclass(frozen=True, slots=True)
class ThreadRow:
    pid: int
    driver_tid: int  # the thread that drives the graphs: a process may have several, with a pool each
    tid: int
    ith: int
    comm: str
    phase: str
    operators: int  # measured
    compute_ns: int  # measured, in thread windows
    wait_ns: int  # at barriers, measured
    wait_share: float  # of compute + wait
    compute_ns_per_token: float | None  # of the process's tokens
    wait_ns_per_token: float | None


@dataclass(frozen=True, slots=True)
class ThreadTable:
    rows: tuple[ThreadRow, ...]
    coverage: tuple[Coverage, ...]  # thread windows only
