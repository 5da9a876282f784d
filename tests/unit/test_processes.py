"""Several recorded processes: who kept whom from the processors, in a recording written here."""

from __future__ import annotations

from pathlib import Path

from flowprof.profiler.report import build_report
from flowprof.profiler.sections.outcome import Outcome
from flowprof.profiler.sections.processes import ProcessTable
from flowprof.profiler.store import Recording

MS = 1_000_000
FIRST, SECOND, OUTSIDER = 100, 200, 900


def outcome(path: Path, states: list[tuple[int, int, int, int]], pids: tuple[int, ...] = (FIRST, SECOND)) -> Outcome:
    """states: pid, ms without a processor, by whose thread, start in ms. Each process asked for 1 s."""
    with Recording.create(str(path)) as recording:
        recording.set_meta("sched", "yes")
        for pid in pids:
            recording.append("process", {"pid": [pid], "exe": [f"/opt/engine-{pid}"]})
            recording.append("thread", {"pid": [pid, pid], "tid": [pid, pid + 1], "comm": ["a", "b"]})
            recording.append("counter", {"pid": [pid] * 3, "tid": [pid] * 3, "value": [700 * MS, 300 * MS, 12],
                                         "name": ["task_clock_ns", "run_delay_ns", "minor_faults"]})  # fmt: skip
        for pid, ms, by, start in states:
            recording.append("thread_state", {
                "pid": [pid], "tid": [pid + 1], "cpu": [0], "start_ns": [start * MS], "end_ns": [(start + ms) * MS],
                "state": ["runnable"], "by_tid": [by], "by_comm": ["x"],
            })  # fmt: skip
    with Recording.open(str(path)) as recording:
        return build_report(recording).section("processes")


def test_each_direction_is_counted_by_itself(tmp_path: Path) -> None:
    states = [(FIRST, 40, SECOND + 1, 0), (FIRST, 60, SECOND, 50), (SECOND, 20, FIRST, 200), (FIRST, 90, OUTSIDER, 300),
              (FIRST, 70, FIRST, 500)]  # fmt: skip
    found = outcome(tmp_path / "r.duckdb", states)
    table = found.value
    assert isinstance(table, ProcessTable)
    assert [(r.pid, r.by_pid, r.lost_ns, r.longest_ns, r.times, r.share) for r in table.rows] == [
        (FIRST, SECOND, 100 * MS, 60 * MS, 2, 0.1),
        (SECOND, FIRST, 20 * MS, 20 * MS, 1, 0.02),
    ]
    (finding,) = found.findings
    assert finding.id == "processes.starved"
    assert finding.claim.startswith("engine-200 (200) had the processor for 100 ms while threads of engine-100 (100)")
    assert [row.means for row in table.rows] == ["processor", "processor"]
    assert {words.split(":")[0] for words in table.not_told} == {"memory bandwidth", "GPU"}


def test_nothing_between_them_is_nothing_found(tmp_path: Path) -> None:
    found = outcome(tmp_path / "r.duckdb", [(FIRST, 500, OUTSIDER, 0)])
    assert found.status == "ok" and not found.findings
    assert isinstance(found.value, ProcessTable) and not found.value.rows


def test_one_process_is_not_several(tmp_path: Path) -> None:
    found = outcome(tmp_path / "r.duckdb", [], pids=(FIRST,))
    assert (found.status, found.reason) == ("skipped", "one process; record several with attach PID1,PID2")
