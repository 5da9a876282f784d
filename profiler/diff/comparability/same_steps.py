"""Whether what was taken as a step is the same on both sides.

ggml's graphs say what a step is. Iterations of a program are found from what repeats (iterations.py), and may be found
otherwise in the other run: a layer here, a whole pass there. Then most operators that both sides have run some other
number of times per step, all by the same factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flowprof.profiler.diff.comparability import known
from flowprof.profiler.diff.result import Difference
from flowprof.profiler.diff.steps.steps import Group, Steps

FACTOR = 1.5
ALIKE = 0.1  # of the factor
MOST = 0.8  # of the common groups' time


def differences(phase: str, a: Sequence[Sequence[Steps]], b: Sequence[Sequence[Steps]]) -> list[Difference]:
    """One fact, of phases whose steps had to be found; none of others."""
    sides = [[steps for recording in side for steps in recording if steps.phase == phase] for side in (a, b)]
    if not all(side and side[0].what for side in sides):
        return []
    told = sides[0][0].what, sides[1][0].what
    factor = _factor(sides[0][0], sides[1][0])
    if sides[0][0].per != sides[1][0].per:
        why = "times are divided by other things on either side"
    elif factor is None:
        why = ""
    else:
        why = f"operators run {factor:.3g} times as often in a step of the side after: it is not the same step"
    return [known.difference(f"a step of {phase}", bool(why), told, known.FORBIDS, why)]


def _factor(a: Steps, b: Steps) -> float | None:
    """By which calls per step differ, where they do for most of the common time by the same; None: they do not."""
    calls, time = zip(*(_calls(steps) for steps in (a, b)), strict=True)
    common = [group for group in calls[0] if calls[0][group] and calls[1].get(group)]
    if not common:
        return None
    ratio = np.array([calls[1][group] / calls[0][group] for group in common])
    weight = np.array([time[0][group] + time[1][group] for group in common])
    order = np.argsort(ratio)
    middle = float(ratio[order][np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)]) if weight.sum() else 1.0
    alike = np.abs(ratio / middle - 1) <= ALIKE
    if max(middle, 1 / middle) < FACTOR or weight[alike].sum() < MOST * weight.sum():
        return None
    return middle


def _calls(steps: Steps) -> tuple[dict[Group, float], dict[Group, float]]:
    """Calls per step of every group, and its time."""
    ns = steps.ns.sum(axis=0)
    calls = {group: facts.calls or 0.0 for group, facts in zip(steps.groups, steps.facts, strict=True)}
    return calls, dict(zip(steps.groups, ns.tolist(), strict=True))
