"""What of the service level objectives was kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Objective:
    """One figure of a tier. Every request is kept, missed or unknown."""

    name: str  # ttft, tpot
    limit_ns: float
    kept: int
    missed: int
    unknown: int  # the recording does not hold it: never counted as kept
    slack_p50_ns: float | None  # limit − value, of those that are known: negative is too late
    slack_min_ns: float | None


@dataclass(frozen=True, slots=True)
class Tier:
    name: str
    text: str  # as it was asked for
    requests: int
    attained: int  # kept everything
    missed: int  # missed something
    unknown: int  # the rest
    unplaced: int  # whose prompt's length is not known: they may or may not be of this tier
    attainment: float | None  # attained / requests; None: no request
    goodput_rps: float | None  # requests a second of recording that attained it; None: the duration is not known
    goodput_tps: float | None  # their tokens
    objectives: tuple[Objective, ...]


@dataclass(frozen=True, slots=True)
class SloTable:
    tiers: tuple[Tier, ...]
    duration_ns: int | None  # of the recording: what goodput divides by
