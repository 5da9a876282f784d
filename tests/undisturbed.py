"""Servers and hogs that nobody disturbs, for tests that plant waits: before everybody else in the scheduler's eyes.

They run in sessions of their own whose autogroup has the highest priority: what else the host does takes next to
nothing from them, so that what was planted is what is found. The fixtures are in integration/conftest.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flowprof.examples import load
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.findings import Finding
from flowprof.profiler.report import Report, build_report
from flowprof.profiler.sections.waits import WaitTable
from flowprof.profiler.store import Recording
from recorded import Run, read, recording_of

FULL = ("token", "graph", "op", "thread", "sched")
MS = 1_000_000
DISTURBED = pytest.mark.flaky(reruns=3)  # what was planted, or timed, is planted anew: others use this machine, too
CPUS = sorted(os.sched_getaffinity(0))[:2]
UNDISTURBED: dict[str, Any] = {"start_new_session": True, "preexec_fn": lambda: first_in_line(os.getpid())}
TRIES = 3  # whoever else runs on this machine may hide a cause behind their own


def is_tried_again(request: pytest.FixtureRequest) -> bool:
    """Whether the test has failed before: what it was made from must be made anew."""
    return int(getattr(request.node, "execution_count", 1)) > 1


def first_in_line(pid: int) -> None:
    """Give a session's autogroup the highest priority; where there is no such group, nice alone counts."""
    with contextlib.suppress(FileNotFoundError):
        Path(f"/proc/{pid}/autogroup").write_text("-20")


@contextmanager
def recorded(target: RunningServer, path: Path, level: str = "thread", **options: object) -> Iterator[Run]:
    """A recording at thread level, from the moment on at which graphs are described and windows of `level` are open."""
    with recording_of([target.pid], path, **{"levels": FULL, "budget": None, **options}) as run:
        run.warm_up(level, lambda: load.request(target.url, n_predict=4, prompt_tokens=8))
        yield run


def run_until_named(command: list[str], tries: int = TRIES, **how: Any) -> subprocess.CompletedProcess[str]:
    """An example that says at its end whether the report named what was planted."""
    for _ in range(tries):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **how)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done


def told_of(path: Path) -> dict[str, Any]:
    """What `report --json` prints."""
    report = [sys.executable, "-m", "flowprof.profiler.cli", "report", str(path), "--json"]
    told: dict[str, Any] = json.loads(subprocess.run(report, capture_output=True, check=True).stdout)
    return told


def report_of(path: Path) -> Report:
    with Recording.open(str(path)) as recording:
        report = build_report(recording)
    for name in ("waits", "threads"):
        outcome = report.section(name)
        assert outcome.status == "ok", outcome.reason
    table = report.get(WaitTable)
    assert table is not None
    for row in table.rows:  # nothing is counted twice, whatever was planted
        parts = row.work_ns + row.barrier_ns + row.runnable_ns + row.blocked_ns + row.fault_ns
        assert parts == pytest.approx(row.wall_ns, rel=0.01), row
    return report


def problems(report: Report) -> list[Finding]:
    """All that the report has first, as it has them."""
    assert not report.findings_withheld, "losses: the recorder was starved"
    print(*report.findings, sep="\n")  # shown when a test fails
    return [finding for finding in report.findings if finding.severity == "problem"]


def pool(path: Path) -> dict[int, int]:
    """Thread ids of the engine's pool → index."""
    return dict(read(path, "SELECT tid, ith FROM thread WHERE ith IS NOT NULL"))


def busiest(pid: int, work: Callable[[], object], count: int = 2) -> list[int]:
    """The threads that use most processor time while `work` is done."""

    def used() -> dict[int, int]:
        found = {}
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found[int(task)] = int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        return found

    before = used()
    work()
    gained = {tid: ns - before.get(tid, 0) for tid, ns in used().items()}
    return sorted(gained, key=lambda tid: -gained[tid])[:count]


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"\d+(?:\.\d+)?", text)]
