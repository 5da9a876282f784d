"""When a recording changed: one point that parts it in two, if any does.

Pettitt's test (Applied Statistics 28, 1979) over blocks of neighbouring steps: the point at which what came before and
what came after differ most by their ranks, and how unlikely so large a difference is without a change. Ranks are not
moved by a few slow steps. What a deeper probe level costs is taken off first, as steps near each other in time tell it:
where deep windows lie is no change. Blocks that resemble the one before them are made longer (statistics.py). What
likeness is left makes them worth fewer independent ones: the statistic's variance is that of an AR(1) series,
(1 + r) / (1 - r) times as large. A slow drift is split in its middle, as any test for one point does: the two sides say
by how much, not how.

Every phase with enough steps has a likeliest point; it is a change where p < LEVEL. Of one that is none the sides say
what cannot be excluded all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.steps.steps import Floats, Steps
from scipy import stats

MAX_BLOCKS = 200
LEVEL = 0.01
EDGE = 0.1  # of the blocks: a side must be as long as this
MIN_BLOCKS = 12
STRETCHES = 20  # in which probe levels are told from each other
RESEMBLES = 0.2  # lag-1 correlation, apart from the change, of blocks that are too short


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """at_ns: CLOCK_MONOTONIC, the first step after it. middle_ns: likewise, moved where a side has too few."""

    phase: str
    at_ns: int
    middle_ns: int
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
    """Where the phase changed that did so most surely; None: none did, or there are too few steps to tell."""
    found = [one for one in points(phases) if one.p < LEVEL]
    return min(found, key=lambda one: one.p) if found else None


def points(phases: Sequence[Steps]) -> list[ChangePoint]:
    """The likeliest point of every phase that has steps enough, as they come."""
    return [one for one in (_of_phase(steps) for steps in phases) if one is not None]


def levelled(steps: Steps) -> Floats:
    """(n,) ns of every step, without what its probe level adds to those of the same stretch (least squares with a mean
    for each of STRETCHES)."""
    if len(np.unique(steps.all_level)) < 2:
        return steps.all_ns
    tokens = np.maximum(steps.all_tokens, 1)
    stretch = np.searchsorted(statistics.cut(tokens, STRETCHES), np.arange(len(tokens)), side="right") - 1
    count = np.bincount(stretch)
    values, which, often = np.unique(steps.all_level, return_inverse=True, return_counts=True)
    others = np.delete(np.arange(len(values)), np.argmax(often))
    level = (which[:, None] == others).astype(float)

    def apart(column: Floats) -> Floats:
        found: Floats = column - (np.bincount(stretch, column) / np.maximum(count, 1))[stretch]
        return found

    inside = np.stack([apart(one) for one in level.T], axis=1)
    costs = np.linalg.lstsq(inside, apart(steps.all_ns / tokens), rcond=None)[0]
    found: Floats = steps.all_ns - (level @ costs) * tokens
    return found


def _of_phase(steps: Steps) -> ChangePoint | None:
    tokens, ns = steps.all_tokens, levelled(steps)
    count = min(MAX_BLOCKS, len(ns) // statistics.MIN_STEPS)
    place: int | None = None
    while True:
        begins = statistics.cut(tokens, count) if count >= MIN_BLOCKS else np.zeros(0, np.int64)
        if len(begins) < MIN_BLOCKS:  # few steps, or one with most of the tokens
            return None
        means = np.add.reduceat(ns, begins) / np.add.reduceat(tokens, begins)
        at, p = pettitt(means)
        place = int(begins[at]) if place is None else place  # the shortest blocks tell best where
        rest = np.concatenate([means[:at] - np.median(means[:at]), means[at:] - np.median(means[at:])])
        alike = statistics.likeness(rest)
        if alike <= RESEMBLES or len(statistics.cut(tokens, count // 2)) < MIN_BLOCKS:
            break
        count //= 2
    alike = max(alike, 0.0)
    p = min(1.0, 2 * (p / 2) ** ((1 - alike) / (1 + alike)))
    least = statistics.MIN_BLOCKS * statistics.MIN_STEPS
    start = steps.all_start_ns
    middle = min(max(place, least), len(ns) - least)
    return ChangePoint(steps.phase, int(start[place]), int(start[middle]), p, len(means))
