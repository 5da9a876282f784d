"""Events that are not in the recording."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Losses:
    total: int
    recorded: int  # events that are there
    share: float  # of what counts: lost / (lost + recorded)
    limit: float  # above it verdicts are withheld
    withheld: bool  # verdicts on operators, and what follows from them
    events_withheld: bool  # also those on requests and resources: the limit is reached without operators and graphs
    by_place: tuple[tuple[str, int, str], ...]  # place, events, what helps
    windows: int  # windows in which something was lost
