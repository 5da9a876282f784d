"""Missed overlap in llama.cpp, on recordings whose times are known."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler.analyzers import overlap
from flowprof.profiler.analyzers.overlap_findings import findings
from flowprof.profiler.report import build_report, timeline
from flowprof.profiler.sections.overlap import OverlapTable
from flowprof.profiler.store import Recording
from flowprof.viewers import html, terminal
from synthetic import Synthetic, write

MS = 1_000_000
PREFILL, DECODE = 1, 2


def recorded(path: Path, tables: dict[str, dict[str, Any]]) -> str:
    graphs = {"graph_id": [PREFILL, DECODE], "pid": 1, "phase": ["prefill", "decode"], "tokens": [512, 4],
              "outputs": [1, 4], "described": True, "nodes": 4, "operators": 3}  # fmt: skip
    with Recording.create(str(path)) as recording, recording.batch():
        recording.append("graph", graphs)
        for name, columns in tables.items():
            recording.append(name, columns)
    return str(path)


def executions(rows: list[tuple[int, int, int]]) -> dict[str, Any]:
    """Of (graph, start, end) in ms."""
    return {
        "exec_id": list(range(len(rows))), "pid": 1, "tid": 1, "graph_id": [row[0] for row in rows], "window_id": 1,
        "start_ns": [row[1] * MS for row in rows], "end_ns": [row[2] * MS for row in rows], "level": "op",
    }  # fmt: skip


def table(path: str) -> OverlapTable:
    with Recording.open(path) as recording:
        return overlap.table(recording)


# ---------------------------------------------------------------------- host work between tokens


@pytest.mark.parametrize(("gap_ns", "fires"), [(20_000, False), (2_000_000, True)])
def test_host_work_between_tokens(tmp_path: Path, gap_ns: int, fires: bool) -> None:
    spec = Synthetic(gap_ns=gap_ns, requests=3, tokens=40)
    path = str(tmp_path / "a.duckdb")
    write(path, spec)
    with Recording.open(path) as recording:
        report = build_report(recording)
    found = report.get(OverlapTable)
    assert found is not None and found.host is not None
    assert found.host.gaps == 3 * 39, "none before a request's first step, none across requests"
    assert found.host.median_ns == gap_ns and found.host.total_ns == 3 * 39 * gap_ns
    assert found.host.asleep_ns is None, "the scheduler was not recorded"
    assert found.overlaps == (), "a step needs the token sampled before it"
    ids = [finding.id for finding in report.findings]
    assert ("overlap.host" in ids) == fires


def test_the_driving_thread_s_sleep(tmp_path: Path) -> None:
    """30 steps of 20 ms with gaps of 10 ms; in each the thread sleeps 4 ms, and 3 ms inside the step."""
    steps = [(DECODE, 30 * n, 30 * n + 20) for n in range(30)]
    asleep = [(30 * n + 22, 30 * n + 26) for n in range(30)] + [(30 * n + 5, 30 * n + 8) for n in range(30)]
    path = recorded(tmp_path / "a.duckdb", {
        "graph_exec": executions(steps), "meta": {"key": ["sched"], "value": ["yes"]},
        "thread_state": {"pid": 1, "tid": 1, "cpu": 0, "start_ns": [a * MS for a, _ in asleep],
                         "end_ns": [b * MS for _, b in asleep], "state": "sleeping", "by_tid": 0, "by_comm": None},
    })  # fmt: skip
    gap = table(path).host
    assert gap is not None
    assert (gap.gaps, gap.total_ns, gap.asleep_ns, gap.sequences) == (29, 290 * MS, 29 * 4 * MS, 4)
    assert gap.share == pytest.approx(10 / 30)


def marked(tmp_path: Path, tokens: bool, **more: dict[str, Any]) -> str:
    """30 steps of 20 ms with gaps of 10 ms: tokens of four slots after 3 … 6 ms, answers and the next batch until 9 ms.
    The batch before the tenth step was not seen, nor the tokens behind it; one token lies within a step."""
    starts = [30 * n for n in range(30) if n != 10]
    marks = [at + 20 + late for at in starts[:-1] for late in (3, 4, 5, 6)] + [30 * 29 + 1]
    batches = [at - 1 for at in starts for _ in range(2)]  # two parts each
    tables = {
        "graph_exec": executions([(DECODE, 30 * n, 30 * n + 20) for n in range(30)]),
        "batch_part": {"pid": 1, "tid": 1, "at_ns": [at * MS for at in batches], "context": 7, "sequence": 0,
                       "tokens": 1, "position": 5, "output": True},
        "slot_token": {"pid": 1, "slot": 0, "at_ns": [at * MS for at in marks]},
    }  # fmt: skip
    if not tokens:
        del tables["slot_token"]
    return recorded(tmp_path / "a.duckdb", tables)


def test_what_gaps_are_made_of(tmp_path: Path) -> None:
    gap = table(marked(tmp_path, tokens=True)).host
    assert gap is not None and (gap.gaps, gap.parts_gaps) == (29, 27)
    assert [(part.what, part.total_ns) for part in gap.parts] == [
        ("choosing tokens", 27 * 6 * MS), ("answers and next batch", 27 * 3 * MS), ("setting up the graph", 27 * MS)
    ]  # fmt: skip
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        report = build_report(recording)
        [finding] = [one for one in report.findings if one.id == "overlap.host"]
        out = io.StringIO()
        terminal.show(report, out, 80)
        page = html.render(report, timeline(recording))
    assert "of 27 gaps: choosing tokens 162 ms, answers and next batch 81 ms" in finding.evidence[1]
    assert "Most of it is choosing tokens" in finding.advice
    assert "of 27 gaps: choosing tokens 162 ms" in " ".join(out.getvalue().split())
    assert "Of 27 gaps: choosing tokens 162 ms, answers and next batch 81.0 ms" in " ".join(page.split())


def test_a_program_that_is_no_server(tmp_path: Path) -> None:
    """llama.cpp's own marks are there, and nobody tells when a token was chosen."""
    gap = table(marked(tmp_path, tokens=False)).host
    assert gap is not None and gap.parts_gaps == 28
    assert [(part.what, part.total_ns) for part in gap.parts] == [
        ("up to the next batch", 28 * 9 * MS), ("setting up the graph", 28 * MS)]  # fmt: skip
    assert not any("Most of it" in one.advice for one in findings(table(str(tmp_path / "a.duckdb"))))


def test_few_steps_say_nothing(tmp_path: Path) -> None:
    path = recorded(
        tmp_path / "a.duckdb", {"graph_exec": executions([(DECODE, 30 * n, 30 * n + 20) for n in range(9)])}
    )
    assert table(path).host is None


# ---------------------------------------------------------------------- prefill beside decode


def served(end_ms: int | None, results: int = 100) -> dict[str, Any]:
    """10 prefills of 200 ms between decode steps of 20 ms; one other request is decoded from 5 ms to end_ms."""
    rows, at = [], 0
    for _ in range(10):
        rows += [(DECODE, at, at + 20), (DECODE, at + 21, at + 41), (PREFILL, at + 42, at + 242)]
        at += 250
    request = {"pid": 1, "task_id": [7], "slot": [0], "posted_ns": [0], "first_result_ns": [5 * MS],
               "end_ns": [end_ms and end_ms * MS], "results": [results]}  # fmt: skip
    return {"graph_exec": executions(rows), "request": request}


@pytest.mark.parametrize("end_ms", [10_000, None])
def test_prefill_beside_other_requests_decode(tmp_path: Path, end_ms: int | None) -> None:
    """The other request ends later, or had not ended when the recording did."""
    [one] = table(recorded(tmp_path / "a.duckdb", served(end_ms))).overlaps
    assert (one.kind, one.count, one.device) == ("free", 10, None)
    assert one.ideal_ns == 10 * 20 * MS
    assert one.aware_ns == pytest.approx(10 * (20 - 4 * 200 / 512) * MS)
    assert one.base_ns == 10 * (200 + 2 * 20) * MS and one.net_ns == one.aware_ns
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        assert "overlap.free" in [finding.id for finding in build_report(recording).findings]


@pytest.mark.parametrize("before", ["prefill", "mixed"])
def test_parts_of_a_batch_are_one(tmp_path: Path, before: str) -> None:
    """The engine computes a batch of 600 tokens in two graphs; where the first held the decode step, all is well."""
    tables = served(10_000)
    rows = []
    for number in range(10):
        at = 250 * number
        rows += [(DECODE, at, at + 20), (PREFILL if before == "prefill" else 3, at + 42, at + 142),
                 (PREFILL, at + 142, at + 242)]  # fmt: skip
    mixed = {"graph_id": [3], "pid": 1, "phase": ["mixed"], "tokens": [512], "outputs": [4], "described": True}
    found = table(recorded(tmp_path / "a.duckdb", {**tables, "graph": mixed, "graph_exec": executions(rows)}))
    assert [one.count for one in found.overlaps] == ([10] if before == "prefill" else [])
    assert bool(found.refused) == (before == "mixed")


@pytest.mark.parametrize("how", [{"end_ms": 30}, {"end_ms": 10_000, "results": 1}])
def test_prefill_while_nobody_waits_for_tokens(tmp_path: Path, how: dict[str, int]) -> None:
    """The other request was done by then; or its answer comes in one piece, so when it decodes is not known."""
    assert table(recorded(tmp_path / "a.duckdb", served(**how))).overlaps == ()


def test_too_many_losses(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    write(path, Synthetic(losses=10**6))
    found = table(path)
    assert found.host is None and found.overlaps == () and "were lost" in found.refused[0]


def test_batches_that_hold_both(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.duckdb", {
        "graph": {"graph_id": [3], "pid": 1, "phase": ["mixed"], "tokens": [100], "described": True},
        "graph_exec": executions([(3, 0, 20), (DECODE, 30, 50)]),
    })  # fmt: skip
    assert table(path).refused == ("prefill beside decode: 1 graph holds both already",)
