"""When a recording changed: one point that parts it in two, if any does.

Pettitt's test (Applied Statistics 28, 1979) over blocks of neighbouring steps: the point at which what came before and
what came after differ most by their ranks, and how unlikely so large a difference is without a change. Ranks are not
moved by a few slow steps. Blocks that resemble the one before them are made longer first (statistics.py); a slow drift
is split in its middle, as any test for one point does: the two sides say by how much, not how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.steps import Floats, Steps
from scipy import stats

MAX_BLOCKS = 200
LEVEL = 0.01
EDGE = 0.1  # of the blocks: a side must be as long as this
MIN_BLOCKS = 12
STEPS_FOR_CHANGE = MIN_BLOCKS * statistics.MIN_STEPS  # fewer are not looked at
RESEMBLES = 0.2  # lag-1 correlation, apart from the change, of blocks that are too short


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """at_ns: CLOCK_MONOTONIC, the first step after the change."""

    phase: str
    at_ns: int
    p: float
    blocks: int


def pettitt(values: Floats) -> tuple[int, float]:
    """The number of values before the change, and the approximate p. values: (n,), n > 1."""
    count = len(values)
    ranks = stats.rankdata(values)
    u = 2 * np.cumsum(ranks)[:-1] - np.arange(1, count) * (count + 1)
    edge = max(1, int(count * EDGE))
    inner = np.abs(u[edge - 1 : count - edge])
    at = int(np.argmax(inner)) + edge
    p = 2 * np.exp(-6 * float(inner.max()) ** 2 / (count**3 + count**2))
    return at, float(min(1.0, p))


def change_point(phases: Sequence[Steps]) -> ChangePoint | None:
    """Where the phase that took most time changed; None: nowhere, or there are too few steps to tell."""
    found = [one for one in (_of_phase(steps) for steps in phases) if one is not None]
    return min(found, key=lambda one: one.p) if found else None


def _of_phase(steps: Steps) -> ChangePoint | None:
    per_token = steps.all_ns / np.maximum(steps.all_tokens, 1)
    count = min(MAX_BLOCKS, len(per_token) // statistics.MIN_STEPS)
    place: int | None = None
    while count >= MIN_BLOCKS:
        begins = statistics.cut(steps.all_tokens, count)
        if len(begins) < MIN_BLOCKS:  # one step has most of the tokens
            return None
        means = np.add.reduceat(steps.all_ns, begins) / np.add.reduceat(steps.all_tokens, begins)
        at, p = pettitt(means)
        place = int(begins[at]) if place is None else place  # the shortest blocks tell best where
        rest = np.concatenate([means[:at] - np.median(means[:at]), means[at:] - np.median(means[at:])])
        if not statistics.resembles(rest, RESEMBLES):
            return ChangePoint(steps.phase, int(steps.all_start_ns[place]), p, len(means)) if p < LEVEL else None
        count //= 2
    return None
