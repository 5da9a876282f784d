"""Graphs read together, what they share counted once: the same as each of them alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import duckdb
import pytest
from flowprof.profiler.analyzers import graph_tensors
from flowprof.profiler.analyzers.graph_tensors import Tensors
from flowprof.profiler.analyzers.verdict_work import GraphWork, read_graphs
from flowprof.profiler.machine.ceilings import Ceiling, Ceilings
from flowprof.profiler.roofline.costs import graph_costs
from flowprof.profiler.roofline.least_time import Roof
from flowprof.profiler.store import Recording
from synthetic import CEILINGS, Synthetic, grow_context, write

GRAPHS = 9
SMALL_CACHE, LARGE_CACHE = 1 << 20, 1 << 40
COLUMNS = ("op", "name", "type", "ne", "data_bytes", "leaf", "executes", "sources")
CHANGES = """
CREATE TABLE changed AS FROM graph_node;
DELETE FROM graph_node;
INSERT INTO graph_node SELECT * REPLACE (
    CASE WHEN graph_id = 5 AND node_index = 7 THEN -1 ELSE data_bytes END AS data_bytes,
    CASE WHEN graph_id = 6 AND node_index = 7 THEN [9999] ELSE sources END AS sources,
    CASE WHEN graph_id = 7 AND name = 'blk.1.ffn_up.weight' THEN 'renamed' ELSE name END AS name,
    CASE WHEN graph_id = 8 AND name = 'blk.1.ffn_up.weight' THEN 'q4_0' ELSE type END AS type,
    CASE WHEN graph_id = 9 AND layer = 1 THEN NULL ELSE layer END AS layer) FROM changed;
DROP TABLE changed;
"""  # graphs 5 and 6 are lost


def roof(threads: int = 2, llc: int | None = SMALL_CACHE) -> Roof:
    items = tuple(Ceiling(*row, row[3], row[3], "") for row in CEILINGS)  # type: ignore[arg-type]
    return Roof(Ceilings("", items), threads, llc, 0)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompt, and steps of decode with more and more context; experts, of which the graphs read different numbers."""
    path = tmp_path_factory.mktemp("graphs") / "graphs.duckdb"
    write(str(path), Synthetic(layers=2, requests=3, tokens=30, prompt=9, experts=(16, 2), cycle=("op", "thread")))
    grow_context(str(path), GRAPHS)
    with duckdb.connect(str(path)) as db:
        db.execute(CHANGES)
    return path


def graphs_of(recording: Recording) -> list[int]:
    return [graph_id for (graph_id,) in recording.rows("SELECT graph_id FROM graph ORDER BY graph_id")]


@pytest.mark.parametrize("at_once", [1, 400, 50_000])
def test_together_as_alone(recorded: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    roofs = {
        number: roof(1 + number % 2, LARGE_CACHE if number % 3 else SMALL_CACHE) for number in range(1, GRAPHS + 2)
    }
    with Recording.open(str(recorded)) as recording:
        alone: dict[int, GraphWork] = {}
        for number in graphs_of(recording):
            alone |= dict(read_graphs(recording, {number: roofs[number]}))
        monkeypatch.setattr(graph_tensors, "AT_ONCE", at_once)
        together = dict(read_graphs(recording, roofs))
    assert together == alone and list(together) == list(range(1, GRAPHS + 2))
    assert {number for number, work in together.items() if work.total is None} == {5, 6}
    assert {node.shape for node in together[5].nodes.values()} == {"shape unknown"}
    shapes = {number: {node.shape for node in work.nodes.values()} for number, work in together.items()}
    assert "2048x5632 q4_0 · 2 of 16 experts · n=1" in shapes[8] - shapes[2]
    assert all(work.nodes for work in together.values())


def test_costs_are_those_of_the_graph(recorded: Path) -> None:
    with Recording.open(str(recorded)) as recording:
        works = dict(read_graphs(recording, dict.fromkeys((1, 2, 4), roof())))
        for number, work in works.items():
            columns = recording.frame(f"FROM graph_node WHERE graph_id = {number} ORDER BY leaf, node_index")
            used = {node: at.cost for node, at in work.nodes.items() if at.op == "MUL_MAT_ID"}
            costs, _ = graph_costs({name: columns[name].tolist() for name in COLUMNS})
            assert {node: at.cost for node, at in work.nodes.items()} == costs | used and used


def test_like_operators_are_one(recorded: Path) -> None:
    """Only what reads the context differs."""
    with Recording.open(str(recorded)) as recording:
        first, second = (work for _, work in read_graphs(recording, dict.fromkeys((2, 3), roof())))
    differ = Counter(one.op for node, one in first.nodes.items() if one is not second.nodes[node])
    assert set(differ) <= {"MUL_MAT", "SOFT_MAX", "MUL_MAT_ID"} and differ["MUL_MAT"] == 4 and differ["SOFT_MAX"] == 2


def test_too_many_tensors(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Recording.open(str(recorded)) as recording:
        numbers = graphs_of(recording)
        count = recording.rows("SELECT count(*) FROM graph_node WHERE graph_id = 2")[0][0]
        monkeypatch.setattr(graph_tensors, "MAX_TENSORS", 2 * count + 1)
        assert [number for number, _ in Tensors(recording).read(numbers[1:])] == numbers[1:4]
        assert list(Tensors(recording).read([])) == [] and list(Tensors(recording).read([77])) == [(77, [])]
