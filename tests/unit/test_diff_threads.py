"""Threads by their role: as the report tells their waits, per token."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowprof.profiler.analyzers import waits
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.result import ThreadShift
from flowprof.profiler.diff.rows import threads
from flowprof.profiler.diff.side import Pair, Side, open_pair
from flowprof.profiler.sections.waits import WaitTable
from flowprof.profiler.store import Recording
from flowprof.viewers import diff_html, diff_json
from synthetic import write_empty

RECORDED = str(Path(__file__).parents[2] / "examples" / "recording.duckdb")


@pytest.fixture(scope="module")
def found() -> tuple[ThreadShift, ...]:
    with open_pair([RECORDED], RECORDED) as pair:
        return threads.shifts(pair)


def test_parts_are_those_of_the_waits(found: tuple[ThreadShift, ...]) -> None:
    with Recording.open(RECORDED) as recording:
        table = waits.ANALYZER.run(recording).value
    assert isinstance(table, WaitTable)
    tokens = {item.phase: item.tokens_measured for item in table.coverage}
    rows = {(row.phase, row.ith): row for row in table.rows if tokens[row.phase]}
    assert {(one.phase, one.role) for one in found} == rows.keys() and ("decode", 1) in rows
    for one in found:
        row = rows[one.phase, one.role]
        assert sum(part.a_ns or 0 for part in one.parts) == pytest.approx(row.wall_ns / tokens[one.phase], rel=0.01)
        assert {part.part: part.a_ns for part in one.parts} == {part.part: part.b_ns for part in one.parts}
        assert one.parts[0].part == "work" and one.parts[0].a_ns == row.work_ns / tokens[one.phase]


def test_a_side_without_threads(tmp_path: Path) -> None:
    empty = str(tmp_path / "empty.duckdb")
    write_empty(empty)
    with Recording.open(RECORDED) as a, Recording.open(empty) as b:
        told = threads.shifts(Pair(Side("normal", (a,)), Side("buggy", (b,))))
        assert told and all(part.b_ns is None and part.a_ns is not None for one in told for part in one.parts)
        assert threads.shifts(Pair(Side("normal", (b,)), Side("buggy", (b,)))) == ()


def test_a_phase_that_one_of_the_normal_runs_has(found: tuple[ThreadShift, ...]) -> None:
    """The other says nothing of its threads: it is no zero."""
    with Recording.open(RECORDED) as a, Recording.open(RECORDED) as b, Recording.open(RECORDED) as c:
        only = {str(name): column for name, column in b.columns("SELECT * FROM graph WHERE phase <> 'decode'").items()}
        b.shadow("graph", only)
        (told,) = [one for one in threads.shifts(Pair(Side("normal", (a, b)), Side("buggy", (c,))))
                   if (one.phase, one.role) == ("decode", 0)]  # fmt: skip
    (alone,) = [one for one in found if (one.phase, one.role) == ("decode", 0)]
    assert [part.a_ns for part in told.parts] == pytest.approx([part.a_ns for part in alone.parts])


def test_viewers_show_them() -> None:
    with open_pair([RECORDED], RECORDED) as pair:
        diff = compare(pair)
    assert [one["role"] for one in diff_json.document(diff)["threads"] if one["phase"] == "decode"] == [0, 1]
    assert "threads of decode" in diff_html.render(diff).lower()
