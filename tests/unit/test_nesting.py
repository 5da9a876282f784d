"""Parents and depths against the definition, on random slices and on long stairs."""

from __future__ import annotations

import numpy as np
from flowprof.profiler.importers import nesting
from flowprof.profiler.importers.nesting import NONE, parents


def by_definition(thread, start, end, operator) -> list[int]:
    """The innermost operator that encloses, looked for one by one."""
    rows = sorted(range(len(start)), key=lambda i: (thread[i], start[i], -end[i], not operator[i], i))
    found = [NONE] * len(start)
    for place, row in enumerate(rows):
        for other in rows[:place]:
            if operator[other] and thread[other] == thread[row] and end[other] >= end[row]:
                found[row] = other  # the last one that fits began last
    return found


def test_random_slices() -> None:
    random = np.random.default_rng(7)
    for _ in range(300):
        rows = int(random.integers(0, 30))
        thread, start = random.integers(0, 2, rows), random.integers(0, 20, rows)
        end, operator = start + random.integers(0, 15, rows), random.random(rows) < 0.6
        parent, depth = parents(thread, start, end, operator)
        expected = by_definition(thread, start, end, operator)
        assert parent.tolist() == expected
        for row in range(rows):
            above, at = 0, row
            while expected[at] != NONE:
                above, at = above + 1, expected[at]
            assert depth[row] == above


def test_depth_of_a_deep_nest() -> None:
    start = np.arange(100_000)
    _, depth = parents(np.zeros(100_000, int), start, 10**7 - start, np.ones(100_000, bool))
    assert depth.tolist() == start.tolist()


def test_long_stairs_end(monkeypatch) -> None:
    """Each slice outlasts all of a deep nest but a little more each time: rounds are limited, no parent is wrong."""
    monkeypatch.setattr(nesting, "MAX_ROUNDS", 20)
    half = 1000
    start = np.arange(2 * half)
    end = np.concatenate((10**6 - np.arange(half), 10**6 - half + np.arange(half)))
    parent, _ = parents(np.zeros(2 * half, int), start, end, np.ones(2 * half, bool))
    known = parent != NONE
    assert np.all(end[parent[known]] >= end[known])
    assert known[1:half].all()
