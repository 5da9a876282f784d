"""Recorded processes that are in each other's way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Means = Literal["processor", "memory", "GPU"]


@dataclass(frozen=True, slots=True)
class Beside:
    """How much longer the same work takes one process while another one works."""

    ratio: float  # of times; 1: as long as alone
    low: float  # 95 %
    high: float
    alone: int  # graph executions, or rounds of launches and a wait
    beside: int
    changes: int  # how often the other one began or ceased meanwhile


@dataclass(frozen=True, slots=True)
class Starved:
    """One recorded process takes something from another."""

    pid: int  # who goes without
    by_pid: int  # who has it
    means: Means
    lost_ns: int  # processor: over all threads; else of what was compared
    share: float | None  # processor: of the processor time that its threads asked for (had, and waited for; None: not
    # counted); else of the time that the same work took beside the other one
    times: int  # processor: waits for it; else calls, or rounds, beside the other one
    longest_ns: int | None = None  # of the waits for a processor
    slower: Beside | None = None
    phase: str = ""  # memory: of the graphs
    lost_ns_per_token: float | None = None
    moved: float | None = None  # memory: what both move together, bytes/s
    ceiling: float | None = None  # bytes/s
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessTable:
    rows: tuple[Starved, ...]  # by means; the worst first
    pids: tuple[int, ...]
    names: tuple[tuple[int, str], ...]  # pid → its program
    not_told: tuple[str, ...]  # by what else they may starve each other, and why the recording does not tell
