"""The way the recording was made: probe sites and windows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    probe: str
    level: str
    kind: str
    symbol: str
    instruction: str
    cost_class: str
    status: str
    reason: str
    hits: int | None
    cost_ns: float | None


@dataclass(frozen=True, slots=True)
class Window:
    window_id: int
    level: str
    start_ns: int  # since the recording began
    dur_ns: int
    graphs: int
    tokens: int
    losses: int


@dataclass(frozen=True, slots=True)
class Probes:
    sites: tuple[Site, ...]
    windows: tuple[Window, ...]  # the first MAX_WINDOWS
    window_count: int
    time_ns_by_level: tuple[tuple[str, int], ...]
