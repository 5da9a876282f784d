"""What every thread did in a group's operators: planted imbalance and absences, and the parts that add up."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from flowprof.profiler.analyzers import slices
from flowprof.profiler.analyzers.absence import splits
from flowprof.profiler.report import Report, build_report, timeline
from flowprof.profiler.sections.verdicts import Verdict, VerdictTable
from flowprof.profiler.store import Recording
from flowprof.viewers import html
from flowprof.viewers import json as json_viewer
from planted import plant
from synthetic import CEILINGS, Synthetic, write

FASTER = tuple((what, dtype, threads, 2 * value) for what, dtype, threads, value in CEILINGS)
SPEC = Synthetic(ceilings=FASTER, cycle=("thread",), threads=2, imbalance=0.6)
GATE = "2048x5632 q8_0 · n=1"


def made(tmp_path: Path, spec: Synthetic = SPEC, many: int | None = None) -> tuple[Report, Path]:
    path = tmp_path / "x.duckdb"
    write(str(path), spec)
    if many is not None:
        plant(path, many=many)
    with Recording.open(str(path)) as recording:
        return build_report(recording), path


def rows(report: Report) -> tuple[Verdict, ...]:
    table = report.get(VerdictTable)
    assert table is not None
    return table.rows


def gate(report: Report) -> Verdict:
    return next(one for one in rows(report) if (one.phase, one.op, one.shape) == ("decode", "MUL_MAT", GATE))


def test_imbalance_and_the_slowest_thread(tmp_path: Path) -> None:
    """The second thread is done after 40 % of the first one's time."""
    one = gate(made(tmp_path)[0])
    first, second = one.threads
    assert (first.thread, second.thread, one.slowest_thread) == (0, 1, 0)
    assert first.work_ns == first.wall_ns == one.measured_ns == second.wall_ns
    assert second.work_ns == pytest.approx(0.4 * second.wall_ns, rel=0.001)
    assert one.imbalance_ns == pytest.approx(0.3 * one.measured_ns, rel=0.001)
    assert one.wait == "barrier: threads unevenly loaded, thread 0 is the slowest"
    assert any("thread 0 is the slowest" in line for line in one.evidence)
    assert {first.runnable_ns, first.blocked_ns, first.fault_ns, first.barrier_blocked_ns} == {None}, "no scheduler"


def test_no_thread_is_the_slowest_of_equals(tmp_path: Path) -> None:
    one = gate(made(tmp_path, replace(SPEC, imbalance=0.0))[0])
    assert (one.slowest_thread, one.imbalance_ns) == (None, 0)


@pytest.mark.parametrize("operators", [1_000_000, 700])
def test_parts_add_up_over_groups_to_those_of_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operators: int
) -> None:
    monkeypatch.setattr(slices, "SLICE_OPERATORS", operators)
    report, path = made(tmp_path, many=200)
    groups = rows(report)
    for one in (thread for group in groups for thread in group.threads):
        parts = [one.work_ns, one.barrier_spin_ns, one.barrier_blocked_ns, one.runnable_ns, one.blocked_ns,
                 one.fault_ns]  # fmt: skip
        assert sum(part or 0 for part in parts) == one.wall_ns
    with Recording.open(str(path)) as recording:
        whole = splits(recording)
    for row in whole:
        mine = [one for group in groups if group.phase == row.phase for one in group.threads if one.ith == row.ith]
        assert sum(one.wall_ns for one in mine) == pytest.approx(row.wall_ns, rel=0.01)
        assert sum(one.work_ns for one in mine) == row.work_ns
        for part in ("runnable_ns", "blocked_ns", "fault_ns"):
            assert sum(getattr(one, part) for one in mine) == getattr(row, part)
    assert any(row.runnable_ns for row in whole) and any(row.fault_ns for row in whole)


def test_no_thread_windows_no_threads(tmp_path: Path) -> None:
    one = gate(made(tmp_path, replace(SPEC, cycle=("op",)))[0])
    assert (one.threads, one.slowest_thread, one.imbalance_ns) == ((), None, None)


def test_viewers(tmp_path: Path) -> None:
    report, path = made(tmp_path, many=50)
    group = next(one for one in json.loads(json_viewer.render(report))["verdicts"]["groups"] if one["shape"] == GATE)
    assert (group["slowest_thread"], len(group["threads"])) == (0, 2)
    keys = {"thread", "work_ns", "barrier_spin_ns", "barrier_blocked_ns", "runnable_ns", "blocked_ns", "fault_ns"}
    assert keys <= set(group["threads"][1]) and group["threads"][1]["barrier_spin_ns"] > 0
    with Recording.open(str(path)) as recording:
        page = html.render(report, timeline(recording))
    assert "the others wait for thread 0" in page
    assert re.search(r"<li>1: work 40\.0\s%, barrier, spinning 60\.0\s% of [\d.]+\sms</li>", page)
