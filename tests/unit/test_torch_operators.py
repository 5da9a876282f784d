"""PyTorch's operators on recordings whose truth is known: their own time, and findings."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest
from flowprof.profiler.report import Report
from flowprof.profiler.sections.torch_operators import TorchOperators
from torch_recordings import MM, PID, Made, by_name


def test_self_times_by_hand(tmp_path: Path) -> None:
    """linear 0–100 { addmm 10–90 { copy_ 20–40 }, copy_ 91–95 }, linear 200–300 { mm 210– (left), mm 250–280 }."""
    made = Made()
    first = made.call("aten::linear", 0, 100)
    addmm = made.call("aten::addmm", 10, 90, first, depth=1)
    made.call("aten::copy_", 20, 40, addmm, depth=2)
    made.call("aten::copy_", 91, 95, first, depth=1)
    second = made.call("aten::linear", 200, 300)
    made.call("aten::mm", 210, None, second, depth=1)
    made.call("aten::mm", 250, 280, second, depth=1)
    found = made.table(tmp_path)
    seen = {row.name: (row.calls, row.left, row.total_ns, row.self_ns, row.p50_ns) for row in found.rows}
    assert seen == {
        "aten::linear": (2, 0, 200, 16 + 70, 100.0), "aten::addmm": (1, 0, 80, 60, 80.0),
        "aten::copy_": (2, 0, 24, 24, 12.0), "aten::mm": (2, 1, 30, 30, 30.0),
    }  # fmt: skip
    assert [row.name for row in found.rows] == ["aten::linear", "aten::addmm", "aten::mm", "aten::copy_"]
    assert (found.calls, found.self_ns) == (7, 200), "all self time is the time of the outermost"
    assert [row.share for row in found.rows] == [0.43, 0.3, 0.15, 0.12]
    assert found.observed_ns == 5_000_000, "windows of op and thread level"
    assert found.probe_share == pytest.approx(100 * 500 / 5_000_000), "torch's probes only"
    assert (found.threads[0].calls, found.threads[0].top_ns) == (7, 200)


def test_what_a_left_call_had_called_is_not_counted_twice(tmp_path: Path) -> None:
    """a 0–100 { b 10– { c 20– { d 30–60 } } }: b and c have no time, and d's is not a's own."""
    made = Made()
    a = made.call("a", 0, 100)
    b = made.call("b", 10, None, a, depth=1)
    c = made.call("c", 20, None, b, depth=2)
    made.call("d", 30, 60, c, depth=3)
    made.away(40, 50)
    found = made.table(tmp_path)
    assert {row.name: row.self_ns for row in found.rows} == {"a": 70, "b": 0, "c": 0, "d": 30}
    assert found.self_ns == 100
    assert [(row.left, row.p50_ns, row.bound) for row in found.rows if row.name == "b"] == [(1, 0.0, "unknown")]


def test_what_comes_behind_a_left_call_is_outermost(tmp_path: Path) -> None:
    """What was left counts as open until one comes from higher up the stack: a 0– (left) { b 50–90 { c 60–70 } }.

    So does one that is still open at the end, and has no row: { d 200–230 }. And in e 300–400 { f 310– { g 320–330 } }
    nothing but e is.
    """
    made = Made()
    a = made.call("a", 0, None)
    b = made.call("b", 50, 90, a, depth=1)
    made.call("c", 60, 70, b, depth=2)
    made.call("d", 200, 230, 77, depth=1)
    e = made.call("e", 300, 400)
    f = made.call("f", 310, None, e, depth=1)
    made.call("g", 320, 330, f, depth=2)
    found = made.table(tmp_path)
    assert found.threads[0].top_ns == 40 + 30 + 100 == found.self_ns


def test_random_trees(tmp_path: Path) -> None:
    """Against the plain definition: what each returned call's time is less its nearest returned calls inside."""
    rng = random.Random(7)
    made = Made()
    own: dict[str, int] = defaultdict(int)

    def grow(start: int, end: int, parent: int | None, tid: int, depth: int) -> int:
        """One call and those in it; the time that its nearest returned calls take."""
        name = f"op{rng.randrange(6)}"
        left = rng.random() < 0.2
        number = made.call(name, start, None if left else end, parent, tid, depth)
        inside, at = 0, start
        while depth < 5 and end - at > 20 and rng.random() < 0.7:
            begin = rng.randint(at, end - 10)
            until = rng.randint(begin + 1, end)
            inside += grow(begin, until, number, tid, depth + 1)
            at = until
        if left:
            return inside
        own[name] += end - start - inside
        return end - start

    for tid in (PID, 7, 8):
        for n in range(60):
            grow(n * 2000, n * 2000 + rng.randint(100, 1900), None, tid, 0)
    found = made.table(tmp_path)
    assert sum(row.left for row in found.rows) > 20
    assert {row.name: row.self_ns for row in found.rows} == dict(own)
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    assert sum(thread.top_ns for thread in found.threads) == found.self_ns


def ids(report: Report) -> list[str]:
    return sorted(one.id for one in report.findings if one.id.startswith("torch_operators"))


def test_findings_fire_where_they_should(tmp_path: Path) -> None:
    made = Made()
    for name in "abcd":  # a quarter each
        made.row((f"aten::{name}", *MM[1:]), 100_000)
    assert ids(made.report(tmp_path)) == []
    made.row(("aten::a", *MM[1:]), 100_000)
    assert ids(made.report(tmp_path)) == ["torch_operators.largest"]
    made = Made()
    for name in "abcd":
        made.row(f"aten::{name}", 9_000 if name in "ab" else 11_000, calls=100)
    assert ids(made.report(tmp_path)) == ["torch_operators.overhead"]
    made = Made()
    made.row(MM, 2_000_000)
    assert ids(made.report(tmp_path)) == ["torch_operators.inefficient", "torch_operators.largest"]


def test_time_with_other_processes_is_not_a_kernel_s(tmp_path: Path) -> None:
    """Asleep in a wait for a collective: a wait, whose remedy lies with the others; awake in it: not known."""
    made = Made()
    made.row("c10d::wait", 3_000_000, away=2_900_000, state="sleeping")
    made.row("c10d::allreduce", 50_000)
    found = by_name(made.table(tmp_path))
    assert [(one.bound, one.evidence) for one in (found["c10d::wait"], found["c10d::allreduce"])] == [
        ("wait", ("97 % of the time off the processor: sleeping",)),
        ("unknown", ("no shapes, or no formula for this operator",)),
    ]
    [finding] = [one for one in made.report(tmp_path).findings if one.id == "torch_operators.largest"]
    assert finding.claim == "c10d::wait takes 98 % of the operators' own time" and "async_op=True" in finding.advice


@pytest.mark.parametrize(("calls", "expected"), [(19, []), (20, ["largest", "overhead"])])
def test_few_calls_say_nothing(tmp_path: Path, calls: int, expected: list[str]) -> None:
    made = Made()
    made.row("aten::empty", 1_000, calls=calls)
    assert ids(made.report(tmp_path)) == [f"torch_operators.{name}" for name in expected]


def test_other_recordings_skip_it(tmp_path: Path) -> None:
    report = Made().report(tmp_path)
    assert report.section("torch_operators").status == "skipped"
    assert report.get(TorchOperators) is None
