"""Before anything is compared: are the two sides comparable, and by what are their times divided?

Every fact of the set-up, the command line, the work and the measurement is the same on both sides, different, or
unknown. What differs has a weight, from 0 (it tells nothing about speed) to 1 (it forbids a comparison). The score is
the product of what each weight leaves of 1: 0 where something forbids it, and only there. It is no probability: weights
are set by hand, and two of them may be of one change (an option, and what it did).

* **not comparable**: something forbids it: another model, engine, instruction set, model of processor or GPU (a slower
  machine is no regression), no phase on both sides, programs with few operators in common, one recording twice, or more
  than 1 % lost. Verdict, `--json` and `--gate` say the same.
* **comparable per token**: tokens, batches, contexts or phases differ, so that only times per token may be held against
  each other, and not all of those are of equal work.
* **comparable**: the same work. Times are per token all the same.

Unknown facts forbid nothing; they are listed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flowprof.profiler.diff.comparability import known, options, same_measurement, same_work, set_up
from flowprof.profiler.diff.result import Comparability, Comparable, Difference
from flowprof.profiler.diff.side import Pair
from flowprof.profiler.diff.steps.steps import Steps

LEAST = 0.01  # of what is comparable at all
_ORDER = {"different": 0, "unknown": 1, "same": 2}


def comparability(pair: Pair, a_steps: Sequence[Sequence[Steps]], b_steps: Sequence[Sequence[Steps]]) -> Comparability:
    """`a_steps`, `b_steps`: the phases of each recording of the side."""
    sides = pair.a.recordings, pair.b.recordings
    work = same_work.differences(a_steps, b_steps)
    found = [
        *same_measurement.differences(pair),
        *set_up.differences(sides),
        *options.differences(sides),
        *work,
    ]
    ordered = sorted(found, key=lambda one: (_ORDER[one.sameness], -one.weight))
    verdict = _verdict(ordered, work)
    return Comparability(verdict, _score(found), tuple(ordered), same_work.normalisation(a_steps, b_steps))


def _score(found: Sequence[Difference]) -> float:
    left = math.prod(1.0 - one.weight for one in found if one.sameness == "different")
    return max(left, LEAST) if left > 0 else 0.0


def _verdict(found: Sequence[Difference], work: Sequence[Difference]) -> Comparable:
    differ = [one for one in found if one.sameness == "different"]
    if any(one.weight >= known.FORBIDS for one in differ):
        return "not comparable"
    return "comparable per token" if any(one.sameness == "different" for one in work) else "comparable"
