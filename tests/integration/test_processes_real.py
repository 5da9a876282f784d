"""Two real servers on one processor, recorded together: each starves the other, by no more than the kernel says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.examples import load
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.processes import ProcessTable
from flowprof.profiler.store import Recording
from recorded import read, recording_of
from undisturbed import CPUS, DISTURBED

pytestmark = [pytest.mark.bpf, pytest.mark.engine, DISTURBED]

SECONDS = 4.0


def test_each_starves_the_other(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    on_one = ("taskset", "-c", str(CPUS[0]))
    both = [server("tiny", threads=1, wrapper=on_one) for _ in range(2)]
    path = tmp_path / "both.duckdb"
    pids = [one.pid for one in both]
    with recording_of(pids, path, levels=("token", "graph", "sched")):
        clients = [
            threading.Thread(target=load.run, args=(one.url,), kwargs={"seconds": SECONDS, "n_predict": 64})
            for one in both
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    with Recording.open(str(path)) as recording:
        report = build_report(recording)
    outcome, table = report.section("processes"), report.get(ProcessTable)
    assert table is not None, outcome.reason
    delays = dict(read(path, "SELECT pid, sum(value) FROM counter WHERE name = 'run_delay_ns' GROUP BY pid"))
    for row in table.rows:
        print(f"{row.pid} waited {row.lost_ns / 1e6:.0f} ms for {row.by_pid} of {delays[row.pid] / 1e6:.0f} ms in all")
    assert {(row.pid, row.by_pid) for row in table.rows} == {tuple(pids), tuple(reversed(pids))}
    for row in table.rows:
        assert row.share is not None and row.share > 0.2
        assert row.lost_ns < 1.02 * delays[row.pid]
    assert sum(finding.id == "processes.starved" for finding in outcome.findings) == 2
