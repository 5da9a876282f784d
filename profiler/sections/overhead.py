"""What recording cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LevelCost:
    """A level's slow-down of decode, measured against the token windows around its own."""

    level: str
    ratio: float | None  # 1.01: one per cent slower; None: not measurable
    ci95: tuple[float, float] | None
    windows: int  # deep windows with a shallow neighbour
    tokens: int  # decode steps in them, and while their probes were placed and taken off
    time_share: float  # of the recording's time, that included
    reason: str  # why not measurable


@dataclass(frozen=True, slots=True)
class Overhead:
    ratio: float | None  # of the whole recording: 1 + sum over levels of (ratio - 1) × time_share + displaced
    ci95: tuple[float, float] | None
    windows: int
    reason: str
    levels: tuple[LevelCost, ...]
    modelled_cpu_ns: float | None  # hits × measured cost of one hit, over all threads; never mixed with the measured
    modelled_ratio: float | None  # 1 + modelled_cpu_ns / (time inside graphs × threads)
    hits: int
    cost_per_hit_ns: tuple[tuple[str, float], ...]  # by cost class
    recorder_share: float | None  # of one processor: the recorder's own processor time; None: not counted
    displaced: float | None  # of the time: in shallow windows the recorder ran and no processor was idle
