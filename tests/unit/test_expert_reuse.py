"""Reuse of experts, read in parts: the same as one window over all uses says, which is the definition."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from flowprof.profiler.analyzers import expert_reuse
from flowprof.profiler.analyzers.expert_reuse import distances
from flowprof.profiler.store import Recording
from synthetic import Synthetic, write

DEFINITION = """
WITH execs AS (
    SELECT d.exec_id, g.pid, d.phase, row_number() OVER (PARTITION BY g.pid, d.phase ORDER BY d.start_ns) AS number
    FROM graph_duration d JOIN graph g USING (graph_id)
), reads AS (
    SELECT r.*, e.number - row_number() OVER (PARTITION BY r.pid, r.phase, r.layer, r.experts ORDER BY e.number) AS run,
           coalesce(sum(r.tokens) OVER (PARTITION BY r.pid, r.phase, r.layer, r.experts ORDER BY e.number
                                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
    FROM expert_read r JOIN execs e USING (exec_id)
    WHERE r.uses = r.used * r.tokens
), uses AS (
    SELECT r.pid, r.phase, r.layer, r.experts, r.before + u.token
           - lag(r.before + u.token) OVER (PARTITION BY r.pid, r.phase, r.layer, r.experts, r.run, u.expert
                                           ORDER BY r.before + u.token) AS distance
    FROM expert_use u JOIN reads r USING (exec_id, node_index)
)
SELECT pid, phase, layer, experts, distance::BIGINT, count(*) FROM uses GROUP BY ALL
"""
HOLES = "DELETE FROM expert_use WHERE exec_id % 11 = 4 AND rank = 0"
LATE = "DELETE FROM expert_use WHERE exec_id < 9"
NO_LAYER = "UPDATE graph_node SET layer = NULL WHERE layer = 1"
SHUFFLED = """
CREATE TABLE shuffled AS FROM expert_use; DELETE FROM expert_use;
INSERT INTO expert_use FROM shuffled ORDER BY hash(exec_id, node_index, token, rank); DROP TABLE shuffled
"""
BACKWARDS = "UPDATE graph_exec SET start_ns = 2_000_000_000_000 - start_ns, end_ns = 2_000_000_000_000 - start_ns + 1"
TWICE = "UPDATE expert_use SET expert = 3 WHERE rank = 1"  # by one token: 0 tokens apart


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experts") / "experts.duckdb"
    write(str(path), Synthetic(layers=3, requests=6, tokens=30, prompt=9, experts=(16, 2), cycle=("op", "op", "token")))
    return path


@pytest.mark.parametrize("at_once", [1, 37, 1 << 20])
@pytest.mark.parametrize("change", ["", HOLES, LATE, NO_LAYER, SHUFFLED, BACKWARDS, TWICE, f"{HOLES}; {SHUFFLED}"])
def test_parts_say_what_one_window_says(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, at_once: int
) -> None:
    path = tmp_path / "changed.duckdb"
    path.write_bytes(recorded.read_bytes())
    with duckdb.connect(str(path)) as db:
        db.execute(change or "SELECT 1")
    monkeypatch.setattr(expert_reuse, "MAX_USES", at_once)
    with Recording.open(str(path)) as recording:
        found = distances(recording)
        said = sorted(recording.rows(DEFINITION), key=str)
    rows: list[tuple[object, ...]] = [
        (*key, *pair) for key, one in found.items() for pair in zip(one.tokens.tolist(), one.uses.tolist(), strict=True)
    ]
    rows += [(*key, None, one.first) for key, one in found.items() if one.first]
    assert sorted(rows, key=str) == said
    assert len(found) == 6 and {key[1] for key in found} == {"prefill", "decode"}


def test_no_uses(tmp_path: Path) -> None:
    with Recording.create(str(tmp_path / "none.duckdb")):
        pass
    with Recording.open(str(tmp_path / "none.duckdb")) as recording:
        assert distances(recording) == {}
