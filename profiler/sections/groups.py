"""Layers and blocks: the time of operators that belong together."""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.sections.coverage import Coverage


@dataclass(frozen=True, slots=True)
class GroupRow:
    """The time of a layer or block, per graph execution and in all."""

    group: str  # layer number or block
    phase: str
    total_ns: int  # scaled
    share: float  # of the phase's time inside graphs
    p50_ns: float  # per graph execution, measured
    p99_ns: float
    ns_per_token: float | None


@dataclass(frozen=True, slots=True)
class LayerTable:
    rows: tuple[GroupRow, ...]  # by phase, then by layer
    coverage: tuple[Coverage, ...]


@dataclass(frozen=True, slots=True)
class BlockTable:
    rows: tuple[GroupRow, ...]
    coverage: tuple[Coverage, ...]
