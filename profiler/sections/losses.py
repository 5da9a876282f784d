"""Events that are not in the recording."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Losses:
    total: int
    recorded: int  # events that are there
    share: float  # total / (total + recorded)
    limit: float  # above it verdicts are withheld
    withheld: bool
    by_place: tuple[tuple[str, int, str], ...]  # place, events, what helps
    windows: int  # windows in which something was lost
