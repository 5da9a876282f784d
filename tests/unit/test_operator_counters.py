"""Counters per operator: figures worked out by hand → rows, and when the byte model is called confirmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from flowprof.profiler.analyzers import operator_counters
from flowprof.profiler.kernel_side.operator_counters import KINDS, _events
from flowprof.profiler.sections.operator_counters import OperatorCounterTable
from flowprof.profiler.sections.outcome import Outcome
from flowprof.profiler.store import Recording
from synthetic import EMBEDDING, FEED_FORWARD, Synthetic, write

LAYERS, LLC = 4, 8 << 20  # four layers of some 45 MB each: the weights do not fit
WEIGHTS = EMBEDDING * FEED_FORWARD * 34 // 32  # of ffn_up, q8_0
FACTS = {"llc_bytes": str(LLC), "counter_line_bytes": "64", "counter_stream_share": "0.95",
         "counters_missing": "stalled_cycles: this machine does not count it"}  # fmt: skip


def counted(
    path: Path, lines: float, facts: dict[str, str] | None = None, level: str = "thread", **more: Any
) -> Outcome:
    """ffn_up of every layer in decode: two threads with half of `lines` × the weights' lines each, 10 calls a node."""
    name = str(path / "a.duckdb")
    write(name, Synthetic(layers=LAYERS, cycle=(level,), requests=1, tokens=10))
    with Recording.open(name) as recording:
        nodes = [row[0] for row in recording.rows(
            "SELECT node_index FROM graph_node WHERE graph_id = 2 AND name LIKE 'ffn_up-%' AND executes")]  # fmt: skip
    with duckdb.connect(name) as db:
        for key, value in (FACTS | (facts or {})).items():
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, value])
    figures = {
        "task_clock_ns": 10 * 50_000, "context_switches": 10, "page_faults": 5, "cycles": 10 * 200_000,
        "instructions": 10 * 300_000, "llc_misses": round(10 * lines * WEIGHTS / 64 / 2), "llc_prefetches": None,
        "stalled_cycles": None, **more,
    }  # fmt: skip
    with duckdb.connect(name) as db:
        for node in nodes:
            for ith in (0, 1) if level == "thread" else (0,):
                row = {"graph_id": 2, "node_index": node, "ith": ith, "level": level, "calls": 10, **figures}
                marks = ", ".join("?" * len(row))
                db.execute(f"INSERT INTO op_counter ({', '.join(row)}) VALUES ({marks})", list(row.values()))
    with Recording.open(name) as recording:
        return operator_counters.ANALYZER.run(recording)


def table(outcome: Outcome) -> OperatorCounterTable:
    assert isinstance(outcome.value, OperatorCounterTable), outcome.reason
    return outcome.value


def test_a_call_is_the_sum_of_its_threads(tmp_path: Path) -> None:
    found = table(counted(tmp_path, 1.05))
    (row,) = found.rows
    assert (row.phase, row.op, row.block, row.calls) == ("decode", "MUL_MAT", "ffn", 10 * LAYERS)
    assert (row.task_clock_ns, row.context_switches, row.page_faults) == (100_000, 2, 1)
    assert (row.cycles, row.instructions, row.ipc, row.stalled_share) == (400_000, 600_000, 1.5, None)
    assert row.memory_bytes == pytest.approx(1.05 * WEIGHTS, rel=1e-4) and row.weight_bytes == WEIGHTS
    assert row.model_bytes == WEIGHTS + 4 * (EMBEDDING + FEED_FORWARD), "activations of one token in and out, f32"
    assert found.missing == (("stalled_cycles", "this machine does not count it"),)


@pytest.mark.parametrize(
    ("lines", "facts", "model", "findings"),
    [
        (1.05, {}, "confirmed", 0),
        (0.76, {}, "confirmed", 0),
        (0.5, {}, "less", 1),
        (0.5, {"counter_stream_share": "0.62"}, "confirmed", 0),  # it sees that much of anything
        (3.0, {}, "more", 1),
        (3.0, {"counter_misses": "l2"}, "unclear", 0),  # hits of the last-level cache are in it
        (0.5, {"counter_misses": "l2"}, "less", 1),
    ],
)
def test_the_byte_model(tmp_path: Path, lines: float, facts: dict[str, str], model: str, findings: int) -> None:
    outcome = counted(tmp_path, lines, facts)
    (row,) = table(outcome).rows
    (check,) = table(outcome).checks
    assert row.model == check.model == model and row.ratio == pytest.approx(lines, rel=1e-4)
    assert check.weight_bytes == WEIGHTS * LAYERS, "per graph"
    assert check.ratio == pytest.approx(lines, rel=1e-4)
    assert len(outcome.findings) == findings


@pytest.mark.parametrize(
    ("facts", "level", "more", "words"),
    [
        ({"counter_stream_share": "0.05"}, "thread", {}, "saw 5 % of a stream of known size"),
        ({"counter_stream_share": "x"}, "thread", {}, ""),
        ({}, "op", {}, "only the first thread"),
        ({}, "thread", {"llc_misses": None}, "not counted"),
        ({"llc_bytes": str(1 << 40)}, "thread", {}, ""),  # all weights fit: nothing need come from memory
    ],
)
def test_nothing_is_said_where_the_counter_cannot_carry_it(
    tmp_path: Path, facts: dict[str, str], level: str, more: dict[str, Any], words: str
) -> None:
    outcome = counted(tmp_path, 3.0, facts, level, **more)
    found = table(outcome)
    assert found.checks == () and outcome.findings == () and words in found.unchecked
    assert {row.model for row in found.rows} == {""}


def test_prefetched_lines_count(tmp_path: Path) -> None:
    """On Zen most lines of a stream are prefetched: demand misses and prefetches together are what came."""
    outcome = counted(tmp_path, 0.05, {"counter_misses": "l2"}, llc_prefetches=round(10 * WEIGHTS / 64 / 2))
    (row,) = table(outcome).rows
    assert row.ratio == pytest.approx(1.05, rel=1e-4) and row.model == "confirmed"


def test_without_counters(tmp_path: Path) -> None:
    write(str(tmp_path / "a.duckdb"), Synthetic(requests=1, tokens=5))
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        outcome = operator_counters.ANALYZER.run(recording)
    assert outcome.status == "skipped" and "--counters all" in outcome.reason


def test_events_by_processor() -> None:
    zen = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\n"
    older, intel = zen.replace("25", "21"), "vendor_id\t: GenuineIntel\ncpu family\t: 25\n"
    assert set(_events(zen)) == set(KINDS)
    assert set(_events(older)) == set(_events(intel)) == set(KINDS) - {"llc_prefetches"}
