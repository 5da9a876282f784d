"""Two engines beside each other, and memory bandwidth that one takes from the other: planted, absent, not told."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from flowprof.profiler.report import build_report, timeline
from flowprof.profiler.sections.outcome import Outcome
from flowprof.profiler.sections.processes import ProcessTable, Starved
from flowprof.profiler.store import Recording
from flowprof.viewers import html, terminal
from flowprof.viewers import json as json_viewer
from two_engines import FIRST, SECOND, Engines, Truth, write


def seen(path: Path, spec: Engines) -> tuple[Outcome, list[Starved], list[str], Truth]:
    """The outcome, its rows about memory, what is not told of it, and the truth."""
    truth = write(path, spec)
    with Recording.open(str(path)) as recording:
        outcome = build_report(recording).section("processes")
    table = outcome.value
    assert isinstance(table, ProcessTable), outcome.reason
    rows = [row for row in table.rows if row.means == "memory"]
    return outcome, rows, [words for words in table.not_told if words.startswith("memory")], truth


@pytest.mark.parametrize("factor", [1.3, 1.6, 2.5])
def test_what_was_planted_is_found(tmp_path: Path, factor: float) -> None:
    outcome, rows, not_told, truth = seen(tmp_path / "r.duckdb", Engines(factor=factor))
    (row,) = rows
    assert (row.pid, row.by_pid, row.phase) == (FIRST, SECOND, "decode")
    assert row.slower is not None and row.slower.low < factor < row.slower.high
    assert row.slower.high / row.slower.low < 1.03
    assert row.lost_ns_per_token == pytest.approx(truth.products_ns * (factor - 1), rel=0.03)
    assert row.share == pytest.approx(1 - 1 / factor, rel=0.02)
    assert row.moved is not None and row.ceiling == 90e9
    memory = [finding for finding in outcome.findings if finding.id == "processes.memory"]
    if factor < 2:  # else both move 45 % of what memory gives: that is not why
        (finding,) = memory
        assert finding.claim.startswith(f"engine-{SECOND} ({SECOND}) takes memory bandwidth from engine-{FIRST}")
        assert finding.confidence in ("high", "medium") and finding.phase == "decode"
    else:
        assert row.moved / row.ceiling < 0.7 and not memory
    (why,) = not_told
    assert why.startswith(f"memory bandwidth: {SECOND} beside {FIRST}: decode: it worked")  # never alone


@pytest.mark.parametrize("seed", range(8))
def test_as_fast_beside_as_alone_is_silent(tmp_path: Path, seed: int) -> None:
    outcome, (row,), _, _ = seen(tmp_path / "r.duckdb", Engines(factor=1.0, jitter=0.15, seed=seed))
    assert row.slower is not None and row.slower.ratio == pytest.approx(1.0, abs=0.04)
    assert not outcome.findings


def test_time_without_a_processor_is_not_counted_twice(tmp_path: Path) -> None:
    """Half of the products beside the other lose their processor for a millisecond, the others are as fast as alone."""
    outcome, (row,), _, _ = seen(tmp_path / "r.duckdb", Engines(factor=1.0, starved=0.5))
    assert row.slower is not None and row.slower.ratio == pytest.approx(1.0, abs=0.02)
    assert not any(finding.id == "processes.memory" for finding in outcome.findings)


SILENT = {
    "fits into the last-level cache": Engines(llc_bytes=1 << 30),
    "fits into the last-level cache is open": Engines(llc_bytes=200 << 20),
    "fits into the last-level cache is open ": Engines(
        llc_bytes=100 << 20, same_file=True
    ),  # alone 1.3 times the cache
    "it worked 0 times beside it": Engines(apart=True),
    "began or ceased once only": Engines(off_ms=300, on_ms=3000),
    "no ceilings": Engines(ceilings=0),
    "the size of the last-level cache": Engines(llc_bytes=0),
}


@pytest.mark.parametrize("why", SILENT)
def test_it_abstains_and_says_why(tmp_path: Path, why: str) -> None:
    outcome, rows, not_told, _ = seen(tmp_path / "r.duckdb", SILENT[why])
    assert not rows and not any(finding.id == "processes.memory" for finding in outcome.findings)
    assert any(why.strip() in words for words in not_told), not_told


def test_of_two_files_both_count(tmp_path: Path) -> None:
    """What each reads is 1.3 times the cache; both together are more than it can hold."""
    _, rows, _, _ = seen(tmp_path / "r.duckdb", Engines(llc_bytes=100 << 20))
    assert len(rows) == 1


def test_slower_far_below_the_ceiling_is_no_lack_of_bandwidth(tmp_path: Path) -> None:
    outcome, (row,), _, _ = seen(tmp_path / "r.duckdb", replace(Engines(), ceilings=4.0))
    assert row.slower is not None and row.slower.low > 1.5
    assert not any(finding.id == "processes.memory" for finding in outcome.findings)


def test_every_viewer_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "r.duckdb"
    write(path, Engines(starved=0.2, executions=120))
    with Recording.open(str(path)) as recording:
        report, lanes = build_report(recording), timeline(recording)
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="utf-8")
    terminal.show(report, out, 80)
    out.flush()
    shown = raw.getvalue().decode()
    for words in (f"engine-{FIRST} ({FIRST})", "processor", "memory", "1.6", "not told: memory bandwidth"):
        assert words in shown
    page = html.render(report, lanes)
    assert "memory, decode" in page and "× 1.6" in page and "Not told: memory bandwidth" in page
    told = json.loads(json_viewer.render(report))["processes"]
    assert [row["means"] for row in told["rows"]] == ["processor", "memory"]
    assert told["rows"][1]["slower"]["low"] > 1.5 and told["rows"][0]["slower"] is None
