"""Steps probed to different depths: the mix of depths is no difference between two runs, and hides none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from diff_runs import Run, steps
from flowprof.profiler.diff.changepoint import change_point
from flowprof.profiler.diff.rows.phases import phase_shifts
from flowprof.profiler.diff.steps.levels import LEVELS, MIN_STEPS, at_same_levels, numbered
from flowprof.profiler.diff.steps.steps import Steps

TOKEN, OP = numbered(["token", "op"]).tolist()


def in_windows(run: Steps, every: int, length: int, slower: float = 0.1) -> Steps:
    """Of `every` steps the first `length` are probed at op level, which makes them slower."""
    deep = np.arange(len(run.all_ns)) % every < length
    return replace(run, all_ns=run.all_ns * np.where(deep, 1 + slower, 1), all_level=np.where(deep, OP, TOKEN))


def quiet(seed: int, **changes: float) -> Steps:
    return steps(Run(seed, steps=500, groups=20, shared=0.01, **changes))  # type: ignore[arg-type]


def test_levels_of_other_versions_have_a_number() -> None:
    assert numbered(["request", "thread", None, "deeper"]).tolist() == [0, 4, len(LEVELS), len(LEVELS)]


def test_means_are_those_of_the_common_mix() -> None:
    count = MIN_STEPS
    tokens = np.repeat([1, 1, 2, 2], count)
    level = np.repeat([TOKEN, TOKEN, OP, OP], count)
    normal = replace(quiet(1), all_ns=np.repeat([10.0, 12, 40, 44], count), all_tokens=tokens, all_level=level)
    level = np.repeat([TOKEN, TOKEN, TOKEN, OP], count)
    other = replace(normal, all_ns=np.repeat([20.0, 22, 24, 26], count), all_tokens=tokens[::-1], all_level=level)
    ((ns, _),), ((others, _),) = at_same_levels([normal], [other])
    share = 2 / 3  # of token level: 2 tokens of 6 on one side, 5 on the other; of op level 4 and 1
    assert ns.sum() / tokens.sum() == pytest.approx(share * 22 / 2 + (1 - share) * 84 / 4)
    assert others.sum() / tokens.sum() == pytest.approx(share * 66 / 5 + (1 - share) * 26)
    assert np.diff(ns[::count, 0])[[0, 2]] == pytest.approx([2, 4]), "steps of a level keep what they differ by"


def test_a_handful_of_steps_of_a_level_weighs_nothing() -> None:
    """One side recorded in full, but for its first steps, which are cold; the other in windows."""
    run = quiet(1)
    cold = np.arange(500) < 3
    full = replace(run, all_ns=run.all_ns * np.where(cold, 3, 1.1), all_level=np.where(cold, TOKEN, OP))
    (a,), (b,) = at_same_levels([full], [in_windows(quiet(2), 500, 25)])
    assert (a[0] == full.all_ns[:, None]).all() and b[0].mean() < a[0].mean()


def test_a_level_of_one_side_only_moves_nothing() -> None:
    """A third of one side at op level: what is compared is token level alone."""
    run = quiet(1)
    ((ns, tokens),), ((others, _),) = at_same_levels(
        [in_windows(run, 3, 1, 1.0)], [replace(run, all_level=np.full(500, TOKEN))]
    )
    alone = np.arange(500) % 3 > 0
    assert ns.sum() / tokens.sum() == pytest.approx(run.all_ns[alone].mean())
    assert others[:, 0] == pytest.approx(run.all_ns)
    ((ns, _),), _ = at_same_levels([in_windows(run, 1, 1)], [replace(run, all_level=np.full(500, TOKEN))])
    assert ns[:, 0] == pytest.approx(run.all_ns * 1.1), "nothing in common: as they are"


def test_another_mix_is_no_change() -> None:
    loud = 0
    for seed in range(20):
        few, many = in_windows(quiet(2 * seed), 100, 5), in_windows(quiet(2 * seed + 1), 100, 40)
        (found,) = phase_shifts(((few,),), ((many,),))
        loud += found.significant
        assert abs(found.delta_ns_per_token) < 0.01 * found.a_ns_per_token < 0.03 * few.all_ns.mean()
        raw = many.all_ns.mean() / few.all_ns.mean() - 1
        assert raw > 0.02, "which the plain means are not"
    assert loud <= 1  # of 150 pairs two were


def test_where_deep_windows_lie_is_no_change() -> None:
    """Many in the first fifth, few later, each 10 % slower: no point of change. A real one is found all the same."""
    loud = found = 0
    for seed in range(30):
        run = quiet(seed)
        early, late = in_windows(run, 10, 8), in_windows(run, 50, 4)
        first = np.arange(len(run.all_ns)) < 100
        mixed = replace(
            run, all_ns=np.where(first, early.all_ns, late.all_ns),
            all_level=np.where(first, early.all_level, late.all_level),
        )  # fmt: skip
        loud += change_point([mixed]) is not None
        later = np.arange(len(run.all_ns)) >= 300
        found += change_point([replace(mixed, all_ns=mixed.all_ns * np.where(later, 1.05, 1.0))]) is not None
    assert loud <= 1 and found >= 28


def test_windows_hide_no_change() -> None:
    """+2 % from 500 tokens a side, a tenth of them 10 % slower in windows: found as if there were none."""

    def found(windows: bool) -> int:
        hits = 0
        for seed in range(30):
            pair = quiet(2 * seed), quiet(2 * seed + 1, phase_factor=1.02)
            if windows:
                pair = in_windows(pair[0], 120, 12), in_windows(pair[1], 150, 12)
            (shift,) = phase_shifts(((pair[0],),), ((pair[1],),))
            hits += shift.significant and shift.delta_ns_per_token > 0
        return hits

    assert found(True) >= 0.8 * 30 and found(True) >= found(False) - 3
