"""Steps that were probed to different depths, compared as if both sides had the same share of each.

A step is longer while every operator reports than while only tokens do. With windows of depth that come and go, a
side's mean would follow how many of its steps lay in them, and its blocks would differ by nothing else. So the means of
each level are compared, both sides' weighted alike: by the tokens of the side with fewer of them (direct
standardisation). A level of which one side has hardly any steps is left out. Sides that have no level in common are
left as they are; `same_measurement.py` says then that they were not measured alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from flowprof.profiler.diff.steps.steps import Floats, Ints, Steps

MIN_STEPS = 30  # of a level, on either side
LEVELS = ("request", "token", "graph", "op", "thread")  # of graph_exec, the least deep first

Times = tuple[Floats, Ints]  # ns (n, 1), tokens (n,)


def numbered(levels: Iterable[object]) -> Ints:
    """Names of graph_exec.level as their places in LEVELS; what is none of them, behind these."""
    place = {name: at for at, name in enumerate(LEVELS)}
    return np.array([place.get(str(one), len(LEVELS)) for one in levels], np.int64)


def at_same_levels(a: Sequence[Steps], b: Sequence[Steps]) -> tuple[list[Times], list[Times]]:
    """End to end times of both sides' recordings, a number added to those of each level: then the mean per token of a
    level is its side's at the common mix, and so is the mean of all."""
    tokens = np.array([_per_level([one.all_tokens for one in side], side) for side in (a, b)])  # (2, levels)
    steps = np.array([_per_level([np.ones(len(one.all_ns)) for one in side], side) for side in (a, b)])
    common = (steps >= MIN_STEPS).all(axis=0)
    if not common.any():
        return _moved(a, np.zeros(len(LEVELS) + 1)), _moved(b, np.zeros(len(LEVELS) + 1))
    ns = np.array([_per_level([one.all_ns for one in side], side) for side in (a, b)])
    mean = np.divide(ns, tokens, out=np.zeros_like(ns), where=tokens > 0)
    share = np.where(common, tokens.min(axis=0), 0.0)
    less = mean - (mean @ share / share.sum())[:, None]  # (2, levels) per token
    return _moved(a, less[0]), _moved(b, less[1])


def _per_level(values: Sequence[Floats | Ints], side: Sequence[Steps]) -> Floats:
    total = np.zeros(len(LEVELS) + 1)
    for each, steps in zip(values, side, strict=True):
        total += np.bincount(_level(steps), each, len(total))
    return total


def _moved(side: Sequence[Steps], less: Floats) -> list[Times]:
    return [((one.all_ns - less[_level(one)] * one.all_tokens)[:, None], one.all_tokens) for one in side]


def _level(steps: Steps) -> Ints:
    """(n,); a source that knows no levels has one."""
    return steps.all_level if len(steps.all_level) else np.zeros(len(steps.all_ns), np.int64)
