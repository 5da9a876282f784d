"""Two real servers recorded together. On one processor each starves the other, by no more than the kernel says; on a
processor each, what one loses beside the other is what its own clock says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.examples import load
from flowprof.examples.llama_server import RunningServer
from flowprof.examples.load import Answer
from flowprof.profiler.machine import calibrate
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


def test_what_memory_one_takes_from_the_other(server: Callable[..., RunningServer], tmp_path: Path) -> None:
    """The second one works half of the time. Two processors read nearly twice as much as one on most machines, so often
    nothing is lost; however that is, the first one's own tokens per second must say the same."""
    first, second = (server("dense-1b", threads=1, wrapper=("taskset", "-c", str(cpu))) for cpu in CPUS)
    path = tmp_path / "both.duckdb"
    working: list[tuple[int, int]] = []
    answers: list[Answer] = []
    ended = threading.Event()

    def now_and_then() -> None:
        while not ended.is_set():
            began = time.monotonic_ns()
            load.request(second.url, n_predict=24, prompt_tokens=4)
            working.append((began, time.monotonic_ns()))
            ended.wait((working[-1][1] - began) / 1e9)

    with recording_of([first.pid, second.pid], path, levels=("token", "graph", "op", "sched"), budget=None):
        other = threading.Thread(target=now_and_then)
        other.start()
        until = time.monotonic() + 20
        while time.monotonic() < until:
            answers.append(load.request(first.url, n_predict=4, prompt_tokens=4))
        ended.set()
        other.join()
    measured = calibrate.measure(threads=(1, 2), budget_s=4.0)
    with Recording.open(str(path)) as recording:
        report = build_report(recording, measured)
    outcome, table = report.section("processes"), report.get(ProcessTable)
    assert table is not None, outcome.reason
    (row,) = (r for r in table.rows if (r.means, r.pid, r.phase) == ("memory", first.pid, "decode"))
    assert row.slower is not None
    own = {side: [one.predicted_ms for one in answers if _beside(one, working) is side] for side in (True, False)}
    ratio = min(own[True]) / min(own[False])  # of the quickest: what else runs here slows a request, and quickens none
    print(f"products {row.slower}, requests × {ratio:.3f} ({len(own[True])} beside, {len(own[False])} alone)")
    assert row.slower.low - 0.1 < ratio < row.slower.high + 0.1
    one, two = (measured.get("dram_read", threads) for threads in (1, 2))
    assert one is not None and two is not None
    if two.value > 1.7 * one.value:  # the second processor takes nothing from the first one
        assert not any(finding.id == "processes.memory" for finding in outcome.findings)


def _beside(one: Answer, working: list[tuple[int, int]]) -> bool | None:
    """Whether the other one worked all the time; None: part of it."""
    met = sum(max(0, min(one.done_ns, until) - max(one.sent_ns, since)) for since, until in working)
    return None if 0 < met < 0.98 * (one.done_ns - one.sent_ns) else met > 0
