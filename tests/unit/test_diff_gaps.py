"""Between graphs: a server that keeps a request waiting is slow, an idle one is not, and both sides count alike."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
from flowprof.profiler.diff import gate
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.result import Diff
from flowprof.profiler.diff.side import open_pair
from synthetic import Synthetic, write

STALL_NS = 150_000_000
STALLED = f"""
CREATE TEMP TABLE late AS
    SELECT exec_id, start_ns, end_ns, {STALL_NS} * (row_number() OVER (ORDER BY start_ns) - 1) AS ns FROM graph_exec;
UPDATE request SET posted_ns = posted_ns + (SELECT min(ns) FROM late WHERE late.start_ns >= request.posted_ns),
                   end_ns = end_ns + (SELECT max(ns) FROM late WHERE late.end_ns <= request.end_ns);
UPDATE op_exec SET start_ns = op_exec.start_ns + late.ns, compute_end_ns = compute_end_ns + late.ns,
                   end_ns = op_exec.end_ns + late.ns FROM late WHERE late.exec_id = op_exec.exec_id;
UPDATE graph_exec SET start_ns = graph_exec.start_ns + late.ns, end_ns = graph_exec.end_ns + late.ns FROM late
WHERE late.exec_id = graph_exec.exec_id;
UPDATE probe_window SET end_ns = end_ns + (SELECT max(ns) FROM late);
"""


def recording(path: Path, seed: int, **changes: object) -> Path:
    spec = Synthetic(layers=1, requests=4, tokens=40, jitter=0.02, seed=seed, meta={"boot_id": path.stem})
    for name, value in changes.items():
        object.__setattr__(spec, name, value)
    write(str(path), spec)
    return path


def stalled(source: Path) -> Path:
    path = source.with_name(f"stalled-{source.name}")
    shutil.copyfile(source, path)
    with duckdb.connect(str(path)) as db:
        db.execute(STALLED)
    return path


def compared(normal: Path, buggy: Path) -> Diff:
    with open_pair([str(normal)], str(buggy)) as pair:
        return compare(pair)


def test_a_stall_while_a_request_waits(tmp_path: Path) -> None:
    """150 ms between any two graphs: longer than what passes for a pause, and no pause."""
    normal, other = (recording(tmp_path / f"{seed}.duckdb", seed) for seed in (1, 2))
    found = compared(normal, stalled(other))
    assert found.verdict == "slower" and found.phases[0].phase == "decode"
    assert found.phases[0].delta_ns_per_token == pytest.approx(STALL_NS, rel=0.05)
    assert gate.judge(found, 0.05).exit_code == 3
    assert found.causes[0].kind == "host" and not [note for note in found.notes if "pauses" in note]


def test_where_no_request_is_known_it_is_said(tmp_path: Path) -> None:
    normal, other = (recording(tmp_path / f"{seed}.duckdb", seed, with_requests=False) for seed in (1, 2))
    found = compared(normal, stalled(other))
    (note,) = [note for note in found.notes if "pauses" in note]
    assert note.startswith("the other side has 1") and "150 ms" in note and "no request is known" in note
    assert not [note for note in compared(normal, other).notes if "pauses" in note]


def test_gaps_count_on_both_sides_or_on_neither(tmp_path: Path) -> None:
    """Answers of two tokens: every decode step follows a prompt, and its gap is the prompt's."""
    normal = recording(tmp_path / "a.duckdb", 1, gap_ns=3_000_000)
    short = recording(tmp_path / "b.duckdb", 2, gap_ns=3_000_000, tokens=1, requests=160)
    found = compared(normal, short)
    (decode,) = [phase for phase in found.phases if phase.phase == "decode"]
    assert abs(decode.delta_ns_per_token) < 0.05 * decode.a_ns_per_token
    assert not [row for row in found.rows if row.kind == "between" and row.phase == "decode"]
    assert [note for note in found.notes if note.startswith("decode is compared without the time between its graphs")]
    assert sum(row.delta_ns_per_token for row in found.rows if row.phase == "decode") == pytest.approx(
        decode.delta_ns_per_token
    )
