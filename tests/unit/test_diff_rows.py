"""What a diff says of runs whose difference is known: the planted change first, its size right, the rest silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from diff_runs import Run, base_ns, group, steps
from diffs import diff, phase
from flowprof.profiler.diff import gate, statistics
from flowprof.profiler.diff.changepoint import change_point, pettitt, points
from flowprof.profiler.diff.compare import judged, notes
from flowprof.profiler.diff.result import Comparability, PhaseShift, Row
from flowprof.profiler.diff.rows.phases import at_equal_context, phase_shifts
from flowprof.profiler.diff.rows.rows import NOT_MEASURED, rows
from flowprof.profiler.diff.steps.steps import Group, Steps

SAME = Comparability("comparable", 1.0, (), "")
GROUPS = 60
LOG_NORMAL = np.exp((0.05**2 + 0.02**2) / 2)  # the mean of the generator's times by their median
Sides = tuple[tuple[PhaseShift, ...], tuple[Row, ...]]


def compared(normal: Sequence[Steps], buggy: Steps) -> Sides:
    a, b = tuple((one,) for one in normal), ((buggy,),)
    shifts = phase_shifts(a, b)
    return shifts, rows(a, b, shifts)


def significant(found: Sequence[Row]) -> list[str]:
    return [row.name for row in found if row.significant or row.tail_significant]


def test_runs_that_are_alike_are_silent() -> None:
    """Twenty pairs: no row, no phase."""
    for seed in range(20):
        shifts, found = compared([steps(Run(2 * seed, groups=30))], steps(Run(2 * seed + 1, groups=30)))
        assert significant(found) == []
        assert not shifts[0].significant
        assert judged(SAME, shifts)[0] == "same"


def test_ten_percent_in_one_of_200_groups() -> None:
    """That row first, before those that differ by more by chance; the rest silent. One interval of 20 misses."""
    planted, covered = 17, 0
    for seed in range(10):
        _, found = compared([steps(Run(2 * seed))], steps(Run(2 * seed + 1, factors={planted: 1.10})))
        first = found[0]
        assert [row for row in found if row.significant] == [first]
        assert first.name == f"MUL_MAT tensor_{planted} {64 + planted}x64 q8_0"
        assert first.delta_ns_per_token == pytest.approx(0.10 * base_ns(planted), rel=0.2)
        assert first.shift_ns_per_token == pytest.approx(0.10 * base_ns(planted), rel=0.2)
        low, high = first.ci95 or (0.0, 0.0)
        covered += bool(low <= 0.10 * base_ns(planted) * LOG_NORMAL <= high)
    assert covered >= 9


@pytest.mark.parametrize(("correlation", "share"), [(0.0, 0.93), (0.5, 0.92), (0.8, 0.9), (0.95, 0.85)])
def test_intervals_cover_the_truth(correlation: float, share: float) -> None:
    """Of intervals of 95 %: while steps resemble those before them, and there are few of them, some more miss."""
    covered, count = 0, 200
    for seed in range(count):
        a, b = (
            steps(Run(2 * seed + at, groups=2, correlation=correlation, factors={1: 1 + 0.1 * at})) for at in (0, 1)
        )
        normal = statistics.blocks([(a.ns, a.tokens)])
        tested = statistics.test(normal, statistics.blocks([(b.ns, b.tokens)]), intervals=False)
        covered += bool(tested.low[1] <= 0.10 * base_ns(1) * LOG_NORMAL <= tested.high[1])
    assert covered >= share * count


def test_rows_add_up_to_the_phase() -> None:
    shifts, found = compared(
        [steps(Run(1, groups=GROUPS))], steps(Run(2, groups=GROUPS, factors={3: 1.5}, without=(5,), more=(199,)))
    )
    assert sum(row.delta_ns_per_token for row in found) == pytest.approx(shifts[0].delta_ns_per_token)
    assert sum(row.b_ns_per_token or 0 for row in found) == pytest.approx(shifts[0].b_ns_per_token)


def test_steps_that_were_not_measured_are_a_row_of_their_own() -> None:
    """Unmeasured steps take 1 ms longer: rows still add up, and say where."""
    normal, buggy = steps(Run(1, groups=GROUPS)), steps(Run(2, groups=GROUPS))
    more = buggy.all_ns + 1e6
    buggy = replace(
        buggy, all_ns=np.r_[buggy.all_ns, more], all_tokens=np.r_[buggy.all_tokens, buggy.all_tokens],
        all_start_ns=np.r_[buggy.all_start_ns, buggy.all_start_ns + buggy.all_start_ns[-1]],
    )  # fmt: skip
    shifts, found = compared([normal], buggy)
    assert sum(row.delta_ns_per_token for row in found) == pytest.approx(shifts[0].delta_ns_per_token)
    row = next(row for row in found if row.name == NOT_MEASURED)
    assert row.delta_ns_per_token == pytest.approx(0.5e6, rel=0.01)


def test_added_and_removed_groups_are_shown() -> None:
    _, found = compared([steps(Run(1, groups=GROUPS))], steps(Run(2, groups=GROUPS, without=(5,), more=(199,))))
    by_name = {row.name: row for row in found}
    gone, new = by_name["MUL_MAT tensor_5 69x64 q8_0"], by_name["MUL_MAT tensor_199 263x64 q8_0"]
    assert gone.b_ns_per_token is None and gone.a_ns_per_token == pytest.approx(base_ns(5), rel=0.05)
    assert new.a_ns_per_token is None and new.b_ns_per_token == pytest.approx(base_ns(199), rel=0.05)
    assert gone.significant and new.significant


@pytest.mark.parametrize("times", [2.0, 3.0, 6.0])
def test_a_tail_that_leaves_the_mean_alone(times: float) -> None:
    """6 % of the steps take two, three or six times as long, the others accordingly less."""
    hits = 0
    for seed in range(4):
        normal = steps(Run(2 * seed, groups=GROUPS, steps=1500))
        _, found = compared([normal], steps(Run(2 * seed + 1, groups=GROUPS, steps=1500, tail={17: (0.06, times)})))
        assert set(significant(found)) <= {"MUL_MAT tensor_17 81x64 q8_0"}
        hits += any(row.tail_significant for row in found)
    assert hits == 4


def test_a_phase_with_a_tail_does_not_pass() -> None:
    """6 % of the steps take twice as long, the others accordingly less: slower is what the gate says, too."""
    buggy = steps(Run(2, groups=5, steps=1500))
    slow = np.random.default_rng(1).random(1500) < 0.06
    buggy = replace(buggy, all_ns=buggy.all_ns * np.where(slow, 2.0, 0.88 / 0.94))
    shifts = phase_shifts(((steps(Run(1, groups=5, steps=1500)),),), ((buggy,),))
    assert not shifts[0].significant and shifts[0].tail_significant
    verdict, headline = judged(SAME, shifts)
    assert verdict == "slower" and "its slowest steps changed" in headline
    assert gate.judge(diff(phases=shifts), 0.04).outcome == "regression"


def test_twice_the_tokens_in_a_step_are_compared_per_token() -> None:
    shifts, found = compared(
        [steps(Run(1, groups=GROUPS, tokens=1))], steps(Run(2, groups=GROUPS, tokens=2, factors={3: 1.0}))
    )
    assert abs(shifts[0].delta_ns_per_token) < 0.02 * shifts[0].a_ns_per_token
    assert significant(found) == []


def test_repeats_of_a_normal_run_that_differ_are_noise() -> None:
    """Normal runs 8 % apart: a run between them is no change; one of them alone would have said so."""
    slow, fast = steps(Run(1, groups=GROUPS, phase_factor=1.08)), steps(Run(2, groups=GROUPS))
    between = steps(Run(3, groups=GROUPS, phase_factor=1.06))
    assert not compared([slow, fast], between)[0][0].significant
    assert compared([fast], between)[0][0].significant


@pytest.mark.parametrize(("normal", "slow", "loud"), [((1.0, 1.1), 1.12, False), ((1.0, 1.1), 1.3, True)])
def test_two_normal_runs_are_no_surer_than_they_agree(normal: tuple[float, ...], slow: float, loud: bool) -> None:
    """10 % apart: what is not beyond both is no change."""
    a = tuple((steps(Run(at, groups=5, phase_factor=factor)),) for at, factor in enumerate(normal))
    (shift,) = phase_shifts(a, ((steps(Run(9, groups=5, phase_factor=slow)),),))
    assert shift.significant is loud


@pytest.mark.parametrize(("context", "loud"), [("grows", True), ("begins anew", False), ("is not known", True)])
def test_a_machine_that_drifts_is_noise_and_a_context_that_grows_is_not(context: str, loud: bool) -> None:
    """Each run becomes 15 % slower from its first step to its last, and the second is 4 % slower as a whole."""
    rows = {"grows": np.arange(100, 700), "begins anew": np.tile(np.arange(100, 160), 10), "is not known": np.zeros(0)}

    def drifting(run: Steps) -> Steps:
        return replace(run, all_context=rows[context].astype(int), all_ns=run.all_ns * np.linspace(1, 1.15, 600))

    a, b = (drifting(steps(Run(seed, groups=5, phase_factor=factor))) for seed, factor in ((1, 1.0), (2, 1.04)))
    (shift,) = phase_shifts(((a,),), ((b,),))
    assert shift.significant is loud


def test_a_disturbed_machine_is_not_called_the_same() -> None:
    """Noise of more than half a step: whether a third of the time went or came, nobody knows."""
    times = {"a_ns_per_token": 60.0, "b_ns_per_token": 1200.0, "significant": False}
    verdict, headline = judged(SAME, (phase(**times, noise_ns_per_token=200.0),))
    assert verdict == "not enough data"
    assert headline.startswith("decode is too noisy") and "60.0 → 1 200 ms per token (noise 200 ms)" in headline
    assert judged(SAME, (phase(**times, noise_ns_per_token=20.0),))[0] == "same"


def repeats(count: int, seed: int, groups: int, spread: float, apart: float = 0.0) -> list[Steps]:
    """Runs of one program whose means differ by `spread`, and of each group by `apart` more (standard deviations)."""
    random = np.random.default_rng(seed)
    return [
        steps(Run(
            1000 * seed + number, groups=groups, steps=300, phase_factor=float(np.exp(random.normal() * spread)),
            factors={one: float(np.exp(random.normal() * apart)) for one in range(groups)},
        ))
        for number in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("normal", [3, 5])
def test_one_more_run_of_a_program_whose_runs_differ_is_no_change(normal: int) -> None:
    """Means 5 % apart from run to run: blocks within a run do not show it. 1 % of the false alarms are expected."""
    loud = covered = 0
    for seed in range(150):
        *a, b = repeats(normal + 1, seed, 1, 0.05)
        (shift,) = phase_shifts(tuple((one,) for one in a), ((b,),))
        loud += shift.significant
        low, high = shift.ci95 or (0.0, 0.0)
        covered += low <= 0 <= high
    assert loud <= 4
    assert covered >= 0.9 * 150


@pytest.mark.parametrize("normal", [3, 5, 8])
def test_rows_of_runs_that_differ_are_silent(normal: int) -> None:
    """50 groups, each 3 % apart from run to run: of 20 diffs at most one says anything, of any row."""
    loud = 0
    for seed in range(20):
        *a, b = repeats(normal + 1, seed, 50, 0.02, 0.03)
        loud += bool(significant(compared(a, b)[1]))
    assert loud <= 1


def test_what_five_runs_find() -> None:
    """Runs 0.5 % apart: 5 % in the phase, and 30 % in one of its rows, are more than that."""
    hits = first = 0
    for seed in range(10):
        *a, b = repeats(6, seed, 20, 0.005, 0.01)
        hits += phase_shifts(tuple((one,) for one in a), ((replace(b, all_ns=b.all_ns * 1.05),),))[0].significant
        ns = b.ns.copy()
        ns[:, 7] *= 1.3
        found = compared(a, replace(b, ns=ns, all_ns=ns.sum(axis=1)))[1]
        first += [row.name for row in found if row.significant] == [found[0].name] and "tensor_7 " in found[0].name
    assert hits >= 9 and first >= 9


def test_one_layer_of_many() -> None:
    """+30 % in one of 22 layers is 1.4 % of its row: that layer becomes a row of its own."""
    random = np.random.default_rng(1)
    normal, buggy = steps(Run(1, groups=4)), steps(Run(2, groups=4))

    def layered(run: Steps, slow: float) -> Steps:
        each = 20_000 * np.exp(random.normal(size=(len(run.tokens), 22)) * 0.03)
        each[:, 7] *= slow
        one = Group("operator", "decode", "attention", "MUL_MAT", "kq", "64 f16")
        ns = np.concatenate([run.ns, each.sum(axis=1)[:, None]], axis=1)
        return replace(
            run, groups=(*run.groups, one), ns=ns, facts=(*run.facts, run.facts[0]),
            layers={one: (tuple(range(22)), each)}, all_ns=ns.sum(axis=1),
        )  # fmt: skip

    _, found = compared([layered(normal, 1.0)], layered(buggy, 1.3))
    loud = [row for row in found if row.significant]
    assert [row.name for row in loud] == ["MUL_MAT kq 64 f16 · layer 7"]
    assert loud[0].layers == (7,) and loud[0].flops == loud[0].calls_per_token == (None, None), "of all layers"
    assert loud[0].delta_ns_per_token == pytest.approx(6_000, rel=0.1)
    shifts, again = compared([layered(normal, 1.0)], layered(buggy, 1.3))
    assert sum(row.delta_ns_per_token for row in again) == pytest.approx(shifts[0].delta_ns_per_token)


@pytest.mark.parametrize(("count", "verdict"), [(5, "not enough data"), (0, "not enough data"), (300, "same")])
def test_few_steps(count: int, verdict: str) -> None:
    runs = [steps(Run(seed, groups=4, steps=count)) for seed in (1, 2)] if count else []
    shifts = phase_shifts(((runs[0],),), ((runs[1],),)) if runs else phase_shifts(((),), ((),))
    assert judged(SAME, shifts)[0] == verdict


def test_the_whole_phase_slower() -> None:
    shifts, found = compared([steps(Run(1, groups=GROUPS))], steps(Run(2, groups=GROUPS, phase_factor=1.2)))
    verdict, headline = judged(SAME, shifts)
    assert verdict == "slower" and "decode became" in headline and "slower" in headline
    assert sum(row.significant for row in found) > GROUPS * 0.9
    assert judged(SAME, compared([steps(Run(1))], steps(Run(2, phase_factor=0.8)))[0])[0] == "faster"


# ------------------------------------------------------------------ when it changed


def joined(first: Steps, second: Steps) -> Steps:
    return replace(
        first,
        all_start_ns=np.r_[first.all_start_ns, second.all_start_ns + first.all_start_ns[-1]],
        all_tokens=np.r_[first.all_tokens, second.all_tokens],
        all_ns=np.r_[first.all_ns, second.all_ns],
    )


@pytest.mark.parametrize("seed", range(5))
def test_when_it_changed(seed: int) -> None:
    first = steps(Run(seed, groups=5, steps=400, correlation=0.5))
    second = steps(Run(seed + 50, groups=5, steps=200, correlation=0.5, phase_factor=1.08))
    found = change_point([joined(first, second)])
    assert found is not None
    assert found.at_ns == pytest.approx(first.all_start_ns[-1], rel=0.05)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8, 0.95])
def test_noise_is_no_change(correlation: float) -> None:
    flagged = sum(change_point([steps(Run(seed, groups=5, correlation=correlation))]) is not None for seed in range(50))
    assert flagged <= 5


def test_steps_that_resemble_each_other_in_the_end_have_a_likeliest_point_all_the_same() -> None:
    """However long the blocks: fewer independent ones, not none."""
    for seed in range(20):
        (point,) = points([steps(Run(seed, groups=1, noise=0.0, correlation=0.99))])
        assert 0 < point.p <= 1 and point.blocks >= 12
    assert points([steps(Run(1, steps=35, groups=1))]) == []


def test_one_step_with_most_of_the_tokens() -> None:
    """There are no blocks to compare then."""
    run = steps(Run(1, steps=36, groups=2))
    tokens = np.array([1024] + [2] * 35)
    assert change_point([replace(run, all_tokens=tokens, tokens=tokens)]) is None


def test_pettitt_against_its_definition() -> None:
    """U_t = sum over i <= t < j of sign(x_i - x_j); the change is where |U_t| is largest."""
    values = np.random.default_rng(3).normal(size=40) + np.r_[np.zeros(25), np.full(15, 2.0)]
    u = [abs(np.sign(values[:t, None] - values[None, t:]).sum()) for t in range(1, 40)]
    at, p = pettitt(values)
    assert at == int(np.argmax(u)) + 1
    assert p == pytest.approx(2 * np.exp(-6 * max(u) ** 2 / (40**3 + 40**2)))


def test_names_of_the_generator() -> None:
    assert group(17).tensor == "tensor_17"


# ------------------------------------------------------------------ contexts


def grown(run: Steps, contexts: Sequence[int], ns_per_row: float) -> Steps:
    """The run at contexts that take turns, each row of the cache costing so much."""
    context = np.resize(np.repeat(contexts, 4), len(run.all_ns))
    return replace(run, all_context=context, all_ns=run.all_ns + context * ns_per_row)


def test_contexts_that_differ_are_compared_where_they_are_equal() -> None:
    """Nothing but the context changed: slower as a whole, the same at equal contexts."""
    normal, buggy = steps(Run(1, groups=GROUPS)), steps(Run(2, groups=GROUPS))
    each = float(normal.all_ns.mean()) / 1024
    a, b = ((grown(normal, (256, 512), each),),), ((grown(buggy, (512, 1024, 2048), each),),)
    assert phase_shifts(a, b)[0].significant
    equal = at_equal_context(a, b, "decode")
    assert equal is not None and not equal.significant
    assert equal.a_tokens == equal.b_tokens == 200
    few = ((grown(steps(Run(3, groups=GROUPS, steps=20)), (512, 1024), each),),)
    for side, said in ((b, "ms; 95 %: "), (few, "ms; too few steps to be tested)")):
        (note,) = notes(a, side, phase_shifts(a, side))
        assert said in note and "nan" not in note
    assert at_equal_context(a, a, "decode") is None
    assert at_equal_context(a, ((grown(buggy, (1024,), each),),), "decode") is None


def test_a_longer_context_fails_no_gate() -> None:
    normal, buggy = steps(Run(1, groups=GROUPS)), steps(Run(2, groups=GROUPS))
    each = float(normal.all_ns.mean()) / 1024
    a = ((grown(normal, (256, 512), each),),)
    for factor, contexts, outcome in (
        (1.0, (512, 1024, 2048), "within"),
        (1.2, (512, 1024, 2048), "regression"),
        (1.0, (1024, 2048), "not enough data"),
    ):
        slower = replace(buggy, all_ns=buggy.all_ns * factor)
        shifts = phase_shifts(a, ((grown(slower, contexts, each * factor),),))
        assert shifts[0].significant and shifts[0].contexts_apart
        assert gate.judge(diff(phases=shifts), 0.05).outcome == outcome
    assert not phase_shifts(a, a)[0].contexts_apart
