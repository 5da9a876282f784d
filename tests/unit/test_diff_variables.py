"""Which variables of two recordings differ: each view, the noise, and what is left out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flowprof.profiler.diff import distributions, resources, variables
from flowprof.profiler.diff.distributions import Series
from flowprof.profiler.diff.result import Row, VariableShift
from flowprof.profiler.diff.variables import Sampled, differing, shifts
from scipy import stats
from variable_recordings import Samples, pair

N = 400
HEAP = 0x55D0_0000_0000


def found(folder: Path, normal: Any, buggy: dict[str, Samples], rows: tuple[Row, ...] = ()) -> dict[str, VariableShift]:
    with pair(folder, normal, buggy) as both:
        return {one.name: one for one in shifts(both, rows, resources.shifts(both))}


def noisy(seed: int, mean: float = 100, spread: float = 10, count: int = N) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, count).round()


def walk(seed: int, count: int = N) -> np.ndarray:
    """Neighbours resemble each other, and two runs are in different places by chance."""
    return np.cumsum(np.random.default_rng(seed).normal(0, 1, count))


def test_another_value(tmp_path: Path) -> None:
    same = Samples(noisy(1)), Samples(noisy(2))
    limit = {"source": "table.c:7", "type": "int"}
    one = found(
        tmp_path, {"limit": Samples([64] * N, **limit), "other": same[0]},
        {"limit": Samples([64] * 100 + [4096] * (N - 100), **limit), "other": same[1]},
    )  # fmt: skip
    assert list(one) == ["limit"]
    shift = one["limit"]
    assert (shift.view, shift.source, shift.a_range, shift.b_range) == ("value", "table.c:7", (64, 64), (64, 4096))
    assert (shift.a_median, shift.b_median, shift.a_values) == (64, 4096, ((64, 1.0),))
    assert shift.since_ns == 101 * 20_000_000 and shift.q < 0.05
    assert dict(shift.b_values) == {64: 0.25, 4096: 0.75}
    assert shift.distance == pytest.approx(np.sqrt(1 - np.sqrt(0.25)))


def test_what_is_not_compared_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = Samples(noisy(1))
    with pair(tmp_path, {"limit": same, "used": same}, {"limit": same, "size": same}) as both:
        assert variables.notes(both) == (
            "only the normal side sampled used: not compared", "only the other side sampled size: not compared",
        )  # fmt: skip
        monkeypatch.setattr(variables, "MAX_VARIABLES", 1)
        assert len(variables.notes(both)) == 2 and "of the 2 variables in " in variables.notes(both)[0]
    with pair(tmp_path, {"limit": same}, {"limit": same}) as both:
        assert variables.notes(both) == ()
    many = {f"v{number}": same for number in range(8)}
    with pair(tmp_path, many, {"v0": same}) as both:
        monkeypatch.undo()
        assert variables.notes(both) == ("only the normal side sampled v1, v2, v3, v4, v5 and 2 more: not compared",)


def test_within_the_normal_range_there_is_no_moment(tmp_path: Path) -> None:
    a, b = np.tile([10, 20, 30, 40], N // 4), np.tile([10, 10, 10, 41], N // 4)
    one = found(tmp_path, {"x": Samples(a)}, {"x": Samples(b)})["x"]
    assert one.since_ns is None, "41 is within 1.05 of 40"


def test_other_steps(tmp_path: Path) -> None:
    """The values are as often as before, in another order."""
    a, b = np.tile([0, 1, 2, 3], N // 4), np.tile([0, 2, 1, 3], N // 4)
    one = found(tmp_path, {"x": Samples(a)}, {"x": Samples(b)})["x"]
    assert (one.view, one.a_range, one.b_range) == ("delta", (-3, 1), (-3, 2))


def test_other_durations(tmp_path: Path) -> None:
    """0 and 1 in turns, as often, but each stays three times as long; steps are as large, and rarer."""
    a, b = np.tile([0] * 4 + [1] * 4, 100), np.tile([0] * 12 + [1] * 12, 100)
    one = found(tmp_path, {"x": Samples(a)}, {"x": Samples(b)})["x"]
    assert (one.view, one.a_median, one.b_median, one.distance) == ("duration", 4, 12, 1.0)


def test_at_every_call(tmp_path: Path) -> None:
    """What a function is called with, by each of its threads: their turns are no steps of the variable."""
    one = found(
        tmp_path, {"f(n)": Samples(noisy(1), "f")}, {"f(n)": Samples(noisy(2, mean=140), "f")}
    )["f(n)"]  # fmt: skip
    assert (one.function, one.view) == ("f", "value") and one.distance > 0.8


def test_what_tells_nothing(tmp_path: Path) -> None:
    pairs: dict[str, tuple[Any, Any]] = {
        "alike": (noisy(1), noisy(2)),
        "a walk": (walk(1), walk(2)),
        "the same number": ([64] * N, [64] * N),
        "a little": (noisy(1, 100, 10, 20_000), noisy(2, 100.3, 10, 20_000)),
        "a counter, from elsewhere": (np.arange(N), np.arange(N) + 50_000),
        "a counter, for longer": (np.arange(N), np.arange(4 * N)),
        "a counter, slower by 30 %": (np.arange(N), np.arange(N) * 0.7),
        "a counter that wraps": (np.arange(N), (np.arange(N) + 65_336) % 65_536),
        "too few samples": ([64] * 8, [4096] * 8),
        "not a number": ([np.nan] * N, [4096] * N),
        "a thread's number": ([500] * N, [512] * N),
        "an address": ([HEAP + 16] * N, [HEAP + 32_768] * N),
    }
    a, b = ({name: Samples(values[side]) for name, values in pairs.items()} for side in (0, 1))
    assert found(tmp_path, a, b) == {}


def test_a_counter_that_goes_in_other_steps(tmp_path: Path) -> None:
    """Per call, that is not the program's speed; and a rate of a tenth is more than speed."""
    a, b = {"f(x)": Samples(np.arange(N), "f")}, {"f(x)": Samples(np.arange(N) * 3, "f")}
    assert found(tmp_path, a, b)["f(x)"].view == "delta"
    one = found(tmp_path, {"x": Samples(np.arange(N) * 10.0)}, {"x": Samples(np.arange(N) * 1.0)})["x"]
    assert (one.view, round(one.a_median), round(one.b_median)) == ("delta", 500, 50)  # a second


def test_a_counter_that_nearly_stands_still(tmp_path: Path) -> None:
    """Where it is tells nothing; that it has become slower is told."""
    a, b = np.arange(N), 70_000 + np.arange(N) // 100
    assert found(tmp_path, {"x": Samples(a)}, {"x": Samples(b)})["x"].view == "delta"


def test_a_counter_on_one_side_only(tmp_path: Path) -> None:
    assert found(tmp_path, {"errors": Samples([0] * N)}, {"errors": Samples(np.arange(N))})["errors"].view == "value"


def test_addresses(tmp_path: Path) -> None:
    """Another one in every run; that it is null is a difference. Large numbers of another type are compared."""
    ways: dict[str, dict[str, Any]] = {
        "by type": {"type": "pool *"}, "by expression": {"expression": "*(global(top)):ptr"}, "by value": {},
    }  # fmt: skip
    a = {name: Samples([HEAP + 16] * N, **way) for name, way in ways.items()}
    other = {name: Samples([HEAP + 32_768] * N, **way) for name, way in ways.items()}
    size = Samples([HEAP] * N, type="size_t"), Samples([HEAP + 4096] * N, type="size_t")
    assert list(found(tmp_path, {**a, "size": size[0]}, {**other, "size": size[1]})) == ["size"]
    null = {name: Samples(np.tile([0, HEAP], N // 2), **way) for name, way in ways.items()}
    for one in found(tmp_path, a, null).values():
        assert (one.view, one.a_range, one.b_range) == ("value", (1, 1), (0, 1))


def test_several_normal_runs_tell_what_differs_by_itself(tmp_path: Path) -> None:
    """An id that is another in every run: by two normal runs it is known to be one."""
    a, b, c = ({"id": Samples([value] * N)} for value in (70_001, 81_117, 92_021))
    assert found(tmp_path, a, b)
    assert found(tmp_path, [a, b], c) == {}


def test_false_discoveries() -> None:
    """Of 60 runs with eight variables each, all alike on both sides, at most 5 % have any flagged."""

    def sampled(values: np.ndarray) -> Sampled:
        at_ns = np.arange(1, len(values) + 1) * 20_000_000
        return Sampled([Series(at_ns, np.full(len(values), -1), values.astype(float))], [0], "", "", "", [set()])

    def side(run: int) -> dict[tuple[str, str, str, str], Sampled]:
        draw = np.random.default_rng(run)
        toggles, rare = np.repeat(draw.integers(0, 2, N // 10), 10), (draw.random(N) < 0.02) * 5
        saw = (np.arange(N) + draw.integers(0, 50)) % (50 + draw.integers(0, 6))
        kinds = noisy(run), walk(run), draw.poisson(3, N), toggles, draw.integers(0, 2, N), rare, saw, np.ones(N)
        return {("", "", "", str(number)): sampled(values) for number, values in enumerate(kinds)}

    flagged = [differing(side(2 * run), side(2 * run + 1)) for run in range(60)]
    assert sum(map(bool, flagged)) <= 3, [list(one) for one in flagged if one]


def row(op: str, delta: float) -> Row:
    return Row(
        "operator", op, "decode", "", op, "", "", 0.0, delta, delta, None, None, None, None, None, True, None, None,
        None, False, (), "", (), (None, None), (None, None), (None, None),
    )  # fmt: skip


def test_what_costs_most_comes_first(tmp_path: Path) -> None:
    def side(value: float, half: float) -> dict[str, Samples]:
        return {
            "a": Samples([value] * N, "ggml_compute_forward_soft_max"),
            "b": Samples([1, half] * (N // 2), "ggml_compute_forward_mul_mat"),
            "c": Samples([value] * N, "ggml_compute_forward_add"),
            "d": Samples([value] * N),
        }

    rows = row("SOFT_MAX", 10.0), row("MUL_MAT", 5_000.0), row("ADD", -20.0)
    one = found(tmp_path, side(64, 2), side(4096, 3), rows)
    assert list(one) == ["b", "a", "d", "c"], "c's function became faster; nothing is known of d"
    assert [shift.cost_ns_per_token for shift in one.values()] == [5_000, 10, None, -20]


def test_settings_come_before_what_follows_from_them(tmp_path: Path) -> None:
    a = {"length": Samples(noisy(1)), "limit": Samples([64] * N)}
    b = {"length": Samples(noisy(2, mean=900)), "limit": Samples([4096] * N)}
    assert list(found(tmp_path, a, b)) == ["limit", "length"]


def test_recordings_without_variables(tmp_path: Path) -> None:
    assert found(tmp_path, {}, {}) == {}
    assert found(tmp_path, {"x": Samples([1] * N)}, {"y": Samples([2] * N)}) == {}


def test_p_beyond_what_scipy_tells() -> None:
    """It goes on falling where scipy's stops, and agrees with it before."""
    draw = np.random.default_rng(1)
    a = draw.normal(0, 1, 32)
    near, far = (distributions.anderson_darling(a, a + by) for by in (0.7, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another way to call it
        assert near == pytest.approx(stats.anderson_ksamp([a, a + 0.7]).pvalue) and far < 1e-4
    assert distributions.anderson_darling(np.array([1.0] * 6), np.array([2.0] * 6)) >= 2 / 924  # of all orders


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [([1, 0], [1, 0], 0), ([1, 0], [0, 1], 1), ([0.5, 0.5], [1, 0], np.sqrt(1 - np.sqrt(0.5)))],
)
def test_hellinger(a: list[float], b: list[float], distance: float) -> None:
    assert distributions.hellinger(np.array(a), np.array(b)) == pytest.approx(distance)
