"""Two processes that launch work for a GPU, by the host's calls alone: one's rounds beside the other's, and alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from device_calls import Program
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.outcome import Outcome
from flowprof.profiler.sections.processes import ProcessTable, Starved
from flowprof.profiler.store import Recording

FIRST, SECOND = 1, 2
WAIT_US, LAUNCHES = 400.0, 4


@dataclass(frozen=True, slots=True)
class Launching:
    """The first one launches and waits all along; the second one in every other stretch of 20 ms."""

    factor: float = 1.8  # of the first one's waits while the second one has work in flight
    jitter: float = 0.05
    second: bool = True
    changing: bool = False  # the first one's rounds are larger beside the second one, each as long as its like alone
    starved: bool = False  # the first one's thread is longer by time in which it has no processor
    lost: int = 0
    seed: int = 1


def write(path: Path, spec: Launching) -> None:
    random = np.random.default_rng(spec.seed)
    program = Program(windows=[("op", 0, 500_000)])
    ready: list[tuple[float, float]] = []
    now = 1000.0
    if spec.second:
        program.launch(100, 0, pid=SECOND, tid=SECOND)
        program.sync(200, 100, 0, pid=SECOND, tid=SECOND)
    while now < 300_000:
        beside = spec.second and now // 20_000 % 2 == 1
        if (
            beside
            and now % 20_000 < 17_000
            and not any(row["pid"] == SECOND and row["start"] + row["dur"] > now for row in program.rows[-12:])
        ):
            program.launch(now, 0, pid=SECOND, tid=SECOND)
            program.sync(now + 10, 2000, 0, pid=SECOND, tid=SECOND)
        beside = any(row["pid"] == SECOND and row["start"] + row["dur"] > now for row in program.rows[-12:])
        large = spec.changing and beside
        for number in range(LAUNCHES * (2 if large else 1)):
            program.launch(now + 10 * number, 7, name="gemm", grid="[8, 1, 1]", pid=FIRST, tid=FIRST)
        wait = WAIT_US * random.normal(1, spec.jitter) * (2 if large else 1)
        began = now + 100
        if beside and spec.starved:
            ready.append((began + wait, began + wait + 300))
            wait += 300
        elif beside and not large:
            wait *= spec.factor
        program.sync(began, wait, 7, pid=FIRST, tid=FIRST)
        now = began + wait + 50
    program.write(path).close()
    with Recording.open(str(path)) as old:
        tables = {name: old.columns(f"FROM {name}") for name in ("api_call", "device_call", "probe_window")}
    with Recording.create(str(path), overwrite=True) as recording:
        for name, columns in tables.items():
            recording.append(name, columns)
        recording.set_meta("sched", "yes")
        recording.append("process", {"pid": [FIRST, SECOND], "exe": ["/opt/a", "/opt/b"]})
        recording.append("thread", {"pid": [FIRST, SECOND], "tid": [FIRST, SECOND], "comm": ["a", "b"]})
        if ready:
            since, until = (np.round(np.array(column) * 1000).astype(np.int64) for column in zip(*ready, strict=True))
            recording.append("thread_state", {"pid": FIRST, "tid": FIRST, "cpu": 0, "start_ns": since, "end_ns": until,
                                              "state": "runnable", "by_tid": 99, "by_comm": "x"})  # fmt: skip
        if spec.lost:
            recording.append("loss", {"window_id": [0], "place": ["ring"], "events": [spec.lost]})


def seen(path: Path, spec: Launching) -> tuple[Outcome, list[Starved], list[str]]:
    """The outcome, its rows about the GPU, and what is not told of it."""
    write(path, spec)
    with Recording.open(str(path)) as recording:
        outcome = build_report(recording).section("processes")
    table = outcome.value
    assert isinstance(table, ProcessTable), outcome.reason
    return outcome, [row for row in table.rows if row.means == "GPU"], [w for w in table.not_told if w[:3] == "GPU"]


def test_what_was_planted_is_found(tmp_path: Path) -> None:
    outcome, rows, not_told = seen(tmp_path / "r.duckdb", Launching())
    (row,) = rows
    launch = 5.0 * LAUNCHES  # in its calls, beside the wait
    expected = (1.8 * WAIT_US + launch) / (WAIT_US + launch)
    assert (row.pid, row.by_pid) == (FIRST, SECOND) and row.slower is not None
    assert row.slower.low < expected < row.slower.high and row.slower.high / row.slower.low < 1.1
    (finding,) = outcome.findings
    assert finding.id == "processes.gpu" and finding.confidence == "medium"
    assert "not observed" in " ".join(finding.evidence)
    assert len(not_told) == 1 and f"{SECOND} beside {FIRST}" in not_told[0]  # the second one is never alone


@pytest.mark.parametrize("spec", [
    *(Launching(factor=1.0, jitter=0.2, seed=seed) for seed in range(6)),
    Launching(starved=True, factor=1.0),
])  # fmt: skip
def test_what_is_as_fast_beside_as_alone_is_silent(tmp_path: Path, spec: Launching) -> None:
    outcome, (row,), _ = seen(tmp_path / "r.duckdb", spec)
    assert row.slower is not None and row.slower.ratio == pytest.approx(1, abs=0.1)
    assert not outcome.findings


@pytest.mark.parametrize(("spec", "why"), [
    (Launching(second=False), "launches of one process at most"),
    (Launching(changing=True), "the same work was done 0 times"),
    (Launching(lost=3), "events were lost"),
])  # fmt: skip
def test_it_abstains_and_says_why(tmp_path: Path, spec: Launching, why: str) -> None:
    outcome, rows, not_told = seen(tmp_path / "r.duckdb", spec)
    assert not rows and not outcome.findings
    assert any(why in words for words in not_told), not_told
