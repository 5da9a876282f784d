"""Operators: the time of each kind in each phase."""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.sections.coverage import Coverage


@dataclass(frozen=True, slots=True)
class OperatorRow:
    op: str
    block: str
    phase: str
    calls: int  # scaled to the whole recording
    total_ns: int  # scaled
    share: float  # of the phase's time inside graphs
    p50_ns: float  # of one call, wall time on the first thread, measured
    p99_ns: float
    measured_calls: int
    measured_ns: int
    ns_per_token: float | None
    top_tensor: str  # the slowest tensor of the group
    top_tensor_ns: float  # its mean call


@dataclass(frozen=True, slots=True)
class OperatorTable:
    rows: tuple[OperatorRow, ...]  # by phase, then by time
    coverage: tuple[Coverage, ...]
    unattributed: tuple[tuple[str, float], ...]  # phase, share of the measured graphs' time outside operators
