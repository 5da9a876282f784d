"""Stretches of time, against sets of moments."""

from __future__ import annotations

import numpy as np
import pytest
from flowprof.profiler import intervals
from flowprof.profiler.intervals import Ints


def moments(start: Ints, end: Ints) -> set[int]:
    return {moment for begin, stop in zip(start.tolist(), end.tolist(), strict=True) for moment in range(begin, stop)}


def stretches(random: np.random.Generator) -> tuple[Ints, Ints]:
    start = random.integers(0, 60, int(random.integers(0, 9)))
    return start, start + random.integers(0, 12, len(start))


@pytest.mark.parametrize("seed", range(200))
def test_random_stretches(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = stretches(random), stretches(random)
    first, last = sorted(random.integers(0, 80, 2).tolist())
    assert moments(*intervals.both(*one, *other)) == moments(*one) & moments(*other)
    assert intervals.common(*one, *other) == len(moments(*one) & moments(*other))
    assert moments(*intervals.without(*one, *other)) == moments(*one) - moments(*other)
    assert moments(*intervals.gaps(*one, first, last)) == set(range(first, last)) - moments(*one)
    lanes = [intervals.union(*one), intervals.union(*other)]
    joined = (np.concatenate([lane[side] for lane in lanes]) for side in (0, 1))
    assert intervals.several(*joined) == len(moments(*one) & moments(*other))
