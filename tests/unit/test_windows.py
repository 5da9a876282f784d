"""The budget controller on simulated targets: the budget is kept whatever the target does, and deep windows come."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from flowprof.profiler.record.windows import DEEP_S, FIXED_SHARE, FULL_S, LEAST, SAVING_S, SHALLOW_S, Controller, Seen

Speed = Callable[[float], float]  # time (s) → slow-down of the thread level; the op level costs a third of it


def simulate(
    budget: float,
    cost: Speed,
    seconds: float,
    busy: Speed = lambda _: 1.0,
    stretch: float = 0.0,
    fixed_s: float = 0.0,
    recorder: float = 0.0,
    seen_in_steps: bool = False,
) -> tuple[float, float, list[tuple[str, float]]]:
    """Run a controller. Returns (seconds spent, busy seconds, windows).

    stretch: the shortest deep window; fixed_s: what every deep window costs on top; recorder: of the time in shallow
    windows; seen_in_steps: what deep windows cost is seen in their decode steps only, which scatter by 5 %.
    """
    random = np.random.default_rng(5)
    controller = Controller(("op", "thread"), budget)
    now = spent_in_all = busy_in_all = 0.0
    windows = []
    held: Seen | None = None
    while now < seconds:
        level, length = controller.next()
        if level != "token":
            length = max(length, stretch)
        busy_s = length * busy(now)
        spent = {"token": 0.0, "op": cost(now) / 3, "thread": cost(now)}[level] * busy_s
        own = recorder * busy_s if level == "token" else fixed_s
        if seen_in_steps:
            steps = random.normal(0.010, 0.0005, max(int(busy_s / 0.010), 3)) * (1 + spent / busy_s)
            switching = random.normal(0.010, 0.0005, 5 if level != "token" else 0)
            ended = Seen(level, busy_s + switching.sum(), 0.0, recorder * busy_s if level == "token" else 0.0,
                         steps.mean(), len(switching), switching.sum() + (own if len(switching) else 0.0))  # fmt: skip
        else:
            ended = Seen(level, busy_s, spent, own)
        if level != "token":
            held = ended  # it is accounted for when the next shallow one has ended
        else:
            controller.ended(ended)
            if held:
                controller.ended(held)
            held = None
        spent += own
        windows.append((level, length))
        now, spent_in_all, busy_in_all = now + length, spent_in_all + spent, busy_in_all + busy_s
    return spent_in_all, busy_in_all, windows


TARGETS: dict[str, Speed] = {
    "slow": lambda _: 0.01,
    "as expected": lambda _: 0.15,
    "fast": lambda _: 0.6,
    "becomes fast": lambda now: 0.02 if now < 60 else 0.5,
    "becomes slow": lambda now: 0.5 if now < 60 else 0.02,
    "changes all the time": lambda now: 0.05 if int(now / 7) % 2 else 0.4,
}


@pytest.mark.parametrize("budget", [0.002, 0.01, 0.05])
@pytest.mark.parametrize("target", TARGETS)
def test_the_budget_is_kept(target: str, budget: float) -> None:
    spent, busy, windows = simulate(budget, TARGETS[target], 300)
    assert spent <= budget * busy
    deep = [level for level, _ in windows if level != "token"]
    assert len(deep) >= 2 and abs(deep.count("op") - deep.count("thread")) <= 1, "both levels take turns"


@pytest.mark.parametrize("seen_in_steps", [False, True])
@pytest.mark.parametrize("target", ["slow", "as expected", "fast"])
def test_switching_probes_and_the_recorder_are_paid_for(target: str, seen_in_steps: bool) -> None:
    spent, busy, windows = simulate(0.01, TARGETS[target], 600, fixed_s=0.012, recorder=0.003,
                                    seen_in_steps=seen_in_steps)  # fmt: skip
    assert 0.5 * 0.01 * busy < spent <= 0.01 * busy
    assert sum(level != "token" for level, _ in windows) >= 4


def test_a_recorder_that_needs_the_whole_budget_leaves_deep_windows_a_part() -> None:
    spent, busy, _ = simulate(0.01, TARGETS["as expected"], 600, fixed_s=0.012, recorder=0.02)
    deep = spent - 0.02 * busy
    assert 0.5 * LEAST * 0.01 * busy < deep < 1.3 * LEAST * 0.01 * busy


def test_windows_are_long_where_switching_is_dear() -> None:
    cost = 0.15
    _, _, windows = simulate(0.01, lambda _: cost, 600, fixed_s=0.02)
    length = np.mean([length for level, length in windows if level == "thread"][3:])
    assert 0.02 / (0.02 + cost * length) == pytest.approx(FIXED_SHARE, abs=0.05)


def test_the_budget_is_used() -> None:
    spent, busy, _ = simulate(0.01, TARGETS["as expected"], 300)
    assert spent > 0.6 * 0.01 * busy


def test_a_slow_target_is_looked_at_half_of_the_time() -> None:
    _, _, windows = simulate(0.01, lambda _: 0.002, 60)
    deep = sum(length for level, length in windows if level != "token")
    assert deep > 0.5 * 60
    assert all(length <= DEEP_S[1] for level, length in windows if level != "token")


def test_deep_windows_have_shallow_neighbours() -> None:
    _, _, windows = simulate(0.01, TARGETS["changes all the time"], 120)
    levels = [level for level, _ in windows]
    assert all("token" in pair for pair in itertools.pairwise(levels))
    assert levels[0] == "token"
    assert all(SHALLOW_S[0] <= length <= SHALLOW_S[1] for level, length in windows if level == "token")
    assert all(DEEP_S[0] <= length <= DEEP_S[1] for level, length in windows if level != "token")


def test_windows_that_were_stretched_are_paid_for() -> None:
    """A long prefill keeps a deep window open for seconds: the budget is kept all the same, a little later."""
    spent, busy, windows = simulate(0.01, TARGETS["as expected"], 600, stretch=2.0)
    assert spent <= 0.012 * busy
    assert sum(level != "token" for level, _ in windows) >= 5


def test_an_idle_target_earns_nothing() -> None:
    """Time in which no graph runs cannot be spent later: the account does not grow."""
    spent, busy, _ = simulate(0.01, TARGETS["fast"], 300, busy=lambda now: 0.0 if now < 200 else 1.0)
    assert spent <= 0.01 * busy + 0.05


def test_what_a_level_costs_is_learnt() -> None:
    controller = Controller(("op", "thread"), 0.01)
    assert controller.slowdown("token") == 0
    for _ in range(12):
        controller.ended(Seen("thread", 0.5, 0.5 * 0.4))
    assert controller.slowdown("thread") == pytest.approx(0.4, rel=0.01)
    controller.ended(Seen("thread", 0.0, 0.0))
    assert controller.slowdown("thread") == pytest.approx(0.4, rel=0.01), "an idle window teaches nothing"


@pytest.mark.parametrize(("levels", "deepest"), [(("op",), "op"), (("op", "thread"), "thread")])
def test_without_a_budget_the_deepest_level_stays(levels: tuple[str, ...], deepest: str) -> None:
    controller = Controller(levels, None)
    for _ in range(5):
        assert controller.next() == (deepest, FULL_S)
        controller.ended(Seen(deepest, 1.0, 0.5))


@pytest.mark.parametrize("budget", [None, 0.01])
def test_without_levels_there_is_only_the_token_level(budget: float | None) -> None:
    controller = Controller((), budget)
    for _ in range(5):
        assert controller.next() == ("token", SHALLOW_S[1])
        controller.ended(Seen("token", 1.0, 0.0))


def test_a_shallow_window_lasts_until_the_next_deep_one_can_be_paid_for() -> None:
    controller = Controller(("op",), 0.01)
    assert controller.next() == ("token", SHALLOW_S[0]), "the opening credit pays for a deep one right behind it"
    for _ in range(12):
        controller.ended(Seen("op", 0.5, 0.5 * 0.4))
    assert controller.next() == ("token", SHALLOW_S[1]), "far in debt"


def test_a_shallow_window_that_saves_up_is_not_cut_into_pieces() -> None:
    """What is missing in the end is little, and would be earned in a moment: each end of a window is work."""
    controller = Controller(("op",), 0.01)
    for _ in range(3):
        controller.ended(Seen("op", 0.5, 0.05))
    lengths = []
    for _ in range(60):
        level, length = controller.next()
        controller.ended(Seen(level, length, 0.03 if level == "op" else 0.0, recorder_s=0.004))
        if level == "token":
            lengths.append(length)
    assert min(lengths) >= SAVING_S


def test_where_the_recorder_takes_most_of_the_budget_deep_windows_get_their_least_and_no_more() -> None:
    """A second inside of them earns no more than one outside: the recorder works then, too."""
    controller, busy_s, spent_s = Controller(("op",), 0.01), 0.0, 0.0
    opening_s = controller.credit_s
    for _ in range(400):
        level, length = controller.next()
        spends_s = 0.05 * length + 0.004 if level == "op" else 0.0
        controller.ended(Seen(level, length, spends_s, recorder_s=0.0 if level == "op" else 0.0075 * length))
        busy_s, spent_s = busy_s + length, spent_s + spends_s
    assert spent_s == pytest.approx(LEAST * 0.01 * busy_s + opening_s, rel=0.05)
