"""Graphs made by hand in, nodes, edges, folds and positions out; graphs made to hurt stay small."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from flowprof.profiler.analyzers import dag
from flowprof.profiler.analyzers.dag_fold import MAX_NODES, build
from flowprof.profiler.analyzers.dag_tensors import Tensor, canonical, read
from flowprof.profiler.sections.dag import DAG_IN, DAG_OUT, DagEdge, DagGroup, DagNode, DagTable
from flowprof.profiler.store import Recording
from flowprof.viewers.dag import graph_data
from flowprof.viewers.layered import MAX_COLUMNS, layered
from graph_recordings import Graph, Node, write_graphs

LAYERS = 4


def transformer(layers: int = LAYERS, odd: int | None = None) -> list[Node]:
    """Embedding, layers with a cache, a view, a fused node and a residual, output. `odd`: a layer that differs."""
    nodes = [Node("GET_ROWS", "embd", (-1, -2), 100)]
    leaves: list[Node] = []

    def leaf(name: str, layer: int | None = None) -> int:
        leaves.append(Node("NONE", name, layer=layer, leaf=True))
        return -len(leaves)

    leaf("token_embd.weight")
    leaf("inp_tokens")
    mask = leaf("attn_inp_kq_mask")

    def add(op: str, name: str, sources: tuple[int, ...], ns: int | None, layer: int | None, block: str) -> int:
        nodes.append(Node(op, name, sources, ns, layer, block))
        return len(nodes) - 1

    last = 0
    for at in range(layers):
        cache = leaf(f"cache_k_l{at}", at)
        norm = add("RMS_NORM", f"norm-{at}", (last,), 10, at, "attention")
        scaled = add("MUL", f"attn_norm-{at}", (norm, leaf(f"blk.{at}.attn_norm.weight", at)), None, at, "attention")
        key = add("MUL_MAT", f"Kcur-{at}", (leaf(f"blk.{at}.attn_k.weight", at), scaled), 40 + at, at, "attention")
        flat = add("RESHAPE", f"Kcur-{at} (reshaped)", (key,), None, at, "attention")
        add("SET_ROWS", f"cache_k_l{at} (view)", (flat, cache), 5, at, "attention")
        view = add("VIEW", f"cache_k_l{at} (view)", (cache,), None, at, "attention")
        attention = add("FLASH_ATTN_EXT", f"node_{len(nodes)}", (scaled, view, mask), 60, at, "attention")
        out = add("RESHAPE", f"kqv_out-{at}", (attention,), None, at, "attention")
        if at == odd:
            out = add("SCALE", f"scaled-{at}", (out,), 3, at, "attention")
        last = add("ADD", f"l_out-{at}", (out, last), 7, at, "ffn")
    add("MUL_MAT", "result_output", (leaf("output.weight"), last), 500, None, "output")
    count = len(nodes)  # leaves lie behind the nodes
    fixed = [
        Node(n.op, n.name, tuple(count - source - 1 if source < 0 else source for source in n.sources), n.ns, n.layer,
             n.block, n.ne)
        for n in nodes
    ]  # fmt: skip
    return fixed + leaves


def table(path: Path, *graphs: Graph) -> DagTable:
    write_graphs(path / "a.duckdb", graphs)
    with Recording.open(str(path / "a.duckdb")) as recording:
        outcome = dag.ANALYZER.run(recording)
    assert outcome.status == "ok", outcome.reason
    assert isinstance(outcome.value, DagTable)
    return outcome.value


def tensors(nodes: list[Node]) -> dict[int, Tensor]:
    return {
        index: Tensor(index, node.leaf, node.op, node.name, "f32", node.layer, node.block, node.ne, 4,
                      node.sources, node.ns is not None, 1, float(node.ns or 0))
        for index, node in enumerate(nodes)
    }  # fmt: skip


def test_layers_fold_and_edges_run_through_views(tmp_path: Path) -> None:
    (graph,) = table(tmp_path, Graph(transformer())).graphs
    first, group, last = graph.items
    assert isinstance(first, DagNode) and isinstance(group, DagGroup) and isinstance(last, DagNode)
    assert (first.name, last.name, group.layers) == ("embd", "result_output", (0, 1, 2, 3))
    assert [(node.op, node.name) for node in group.nodes] == [
        ("RMS_NORM", "norm"), ("MUL_MAT", "Kcur"), ("SET_ROWS", "cache_k"), ("FLASH_ATTN_EXT", "kqv_out"),
        ("ADD", "l_out"),
    ]  # fmt: skip
    norm, key, write, attention, out = range(5)
    assert set(group.edges) == {
        DagEdge(DAG_IN, norm, "data"), DagEdge(DAG_IN, out, "data"), DagEdge(norm, key, "data"),
        DagEdge(key, write, "data"), DagEdge(norm, attention, "data"), DagEdge(write, attention, "cache"),
        DagEdge(attention, out, "data"), DagEdge(out, DAG_OUT, "data"),
    }  # fmt: skip
    assert graph.edges == (DagEdge(0, 1, "data"), DagEdge(1, 2, "data"))
    assert group.nodes[norm].fused == ("attn_norm",)
    assert [leaf.name for leaf in group.nodes[norm].leaves] == ["blk.attn_norm.weight"]
    assert [(leaf.kind, leaf.name) for leaf in group.nodes[attention].leaves] == [
        ("cache", "cache_k"), ("input", "attn_inp_kq_mask"),
    ]  # fmt: skip
    assert [leaf.kind for leaf in first.leaves] == ["weight", "input"]
    assert group.nodes[norm].sources == ("embd", "l_out (layer before)")


def test_times_are_means_over_executions_and_layers(tmp_path: Path) -> None:
    (graph,) = table(tmp_path, Graph(transformer(), executions=5, tokens=2)).graphs
    group = graph.items[1]
    assert isinstance(group, DagGroup)
    key = group.nodes[1]
    whole = 100 + sum(10 + 40 + at + 5 + 60 + 7 for at in range(LAYERS)) + 500
    assert (key.mean_ns, key.min_ns, key.max_ns, key.total_ns, key.calls) == (41.5, 40, 43, 166, 20)
    assert key.share == pytest.approx(166 / whole) and key.ns_per_token == 83
    assert graph.graph_ns == whole and (group.min_ns, group.max_ns) == (122, 125)
    items = [item.share if isinstance(item, DagNode | DagGroup) else 0 for item in graph.items]
    assert sum(items) == pytest.approx(1)


def test_a_layer_that_differs_stays_apart(tmp_path: Path) -> None:
    (graph,) = table(tmp_path, Graph(transformer(6, odd=3))).graphs
    groups = [item for item in graph.items if isinstance(item, DagGroup)]
    assert [group.layers for group in groups] == [(0, 1, 2, 4, 5), (3,)]
    assert "scaled" in [node.name for node in groups[1].nodes]
    data = graph_data(DagTable((graph,)))["graphs"][0]
    assert data["items"][1]["layers"] == "0–2, 4–5" and data["items"][1]["times"] == 5


def test_the_graphs_with_most_measured_time_stand_for_their_phase(tmp_path: Path) -> None:
    whole = table(
        tmp_path, Graph(transformer(2), executions=2), Graph(transformer(3), executions=9),
        Graph(transformer(2), executions=1, phase="prefill", tokens=100),
    )  # fmt: skip
    found = whole.graphs
    assert [(graph.phase, graph.graph_id, graph.executions, graph.phase_executions) for graph in found] == [
        ("decode", 2, 9, 11), ("decode", 1, 2, 11), ("prefill", 3, 1, 1),
    ]  # fmt: skip
    assert found[0].phase_graphs == 2 and 0.8 < found[0].phase_share < 1
    assert found[0].phase_share + found[1].phase_share == pytest.approx(1)
    assert "not drawn" not in graph_data(whole)["graphs"][0]["note"]


def test_so_many_graphs_of_a_phase_are_drawn_and_told_apart(tmp_path: Path) -> None:
    whole = table(tmp_path, *[Graph(transformer(1), executions=9 - at, tokens=1 + at) for at in range(9)])
    assert [graph.graph_id for graph in whole.graphs] == list(range(1, 1 + dag.MAX_GRAPHS))
    data = graph_data(whole)["graphs"]
    assert [one["label"] for one in data[:2]] == ["20.0\u00a0%, 1 token", "17.8\u00a0%, 2 tokens"]
    assert "9 different graphs in decode; 3 with less time are not drawn" in data[0]["note"]
    same, longer = whole.graphs[0], replace(whole.graphs[0], context=512, pid=78)
    assert graph_data(DagTable((same, longer)))["graphs"][1]["label"] == "20.0\u00a0%, context 512, process 78"


@pytest.mark.parametrize(
    ("name", "plain"),
    [("ffn_up-3", "ffn_up"), ("blk.12.attn_q.weight", "blk.attn_q.weight"), ("cache_k_l0", "cache_k"),
     ("cache_k_l0 (view) (permuted)", "cache_k"), ("Qcur-7 (reshaped)", "Qcur"), ("node_24", ""), (" (view)", ""),
     ("", ""), ("result_output", "result_output"), ("</script>-3", "</script>")],
)  # fmt: skip
def test_names_without_the_layer(name: str, plain: str) -> None:
    assert canonical(name) == plain


def test_verdicts_can_be_given(tmp_path: Path) -> None:
    found = tensors(transformer())
    key = [index for index, tensor in found.items() if tensor.name.startswith("Kcur") and tensor.executes]
    bounds = {(9, key[0]): "compute", (9, key[1]): "memory-dram", (9, key[2]): "memory-dram", (9, key[3]): "nonsense"}
    items, *_ = build(found, 9, 1000.0, 1.0, bounds)
    assert isinstance(items[1], DagGroup) and isinstance(items[0], DagNode)
    assert items[1].nodes[1].bound == "memory-dram"
    assert items[0].bound == ""


def test_many_nodes_are_capped_and_said_so(tmp_path: Path) -> None:
    count = 100_000
    nodes = [Node("MUL_MAT", f"n{i}", (i - 1, i // 2) if i else (), 1 + i % 1000, None, "other") for i in range(count)]
    items, edges, omitted, share = build(tensors(nodes), 1, float(sum(n.ns or 0 for n in nodes)), 1.0)
    assert len(items) == MAX_NODES and omitted == count - MAX_NODES and 0.9 < share < 1
    assert all(item.mean_ns >= 998 for item in items if isinstance(item, DagNode))
    assert {edge.target for edge in edges} >= set(range(1, 100)), "edges run through what is left out"


def test_the_page_says_what_is_not_drawn(tmp_path: Path) -> None:
    nodes = [Node("MUL", f"n{i}", (i - 1,) if i else (), 10 + i, None, "other") for i in range(MAX_NODES + 40)]
    found = table(tmp_path, Graph(nodes, executions=1))
    data = graph_data(found)
    assert found.graphs[0].omitted == 40
    assert "40 operators with the least time" in data["graphs"][0]["note"]
    assert len(json.dumps(data)) < 500_000


def test_thousands_of_layers_stay_small() -> None:
    nodes = [Node("MUL", f"x{i}", (i - 1,) if i else (), 5, i, "ffn") for i in range(5_000)]
    items, edges, omitted, _ = build(tensors(nodes), 1, 1.0, 1.0)
    assert len(items) <= MAX_NODES and len(edges) <= 4 * MAX_NODES and omitted == 5_000 - MAX_NODES


@pytest.mark.parametrize(
    "sources", [(0,), (1, 1), (5,), (-3,), (2**31 - 1,), (2, 1)], ids=["self", "twice", "later", "less", "far", "both"]
)
def test_broken_sources_are_not_followed(tmp_path: Path, sources: tuple[int, ...]) -> None:
    nodes = [Node("MUL", "a", sources, 5), Node("VIEW", "b", sources), Node("ADD", "c", (1, *sources), 5, 0, "ffn")]
    (graph,) = table(tmp_path, Graph(nodes)).graphs
    assert len(graph.items) == 2
    graph_data(DagTable((graph,)))


def test_reading_stops_at_a_limit(tmp_path: Path) -> None:
    write_graphs(tmp_path / "a.duckdb", [Graph(transformer())])
    with Recording.open(str(tmp_path / "a.duckdb")) as recording:
        found, unread = read(recording, 1, 10)
        assert len(found) == 10 and unread == len(transformer()) - 10


# ---------------------------------------------------------------------- the layout


def test_ranks_go_down_and_nothing_overlaps() -> None:
    edges = [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4), (0, 5), (4, 5), (2, 0), (7, 7)]
    placed = layered([1.0] * 8, edges)
    assert all(placed.rank[source] < placed.rank[target] for source, target in edges[:8])
    for a, b in itertools.combinations(range(8), 2):
        if placed.rank[a] == placed.rank[b]:
            assert abs(placed.x[a] - placed.x[b]) >= 1 - 1e-6
    assert min(placed.x) >= 0.5 - 1e-6 and max(placed.x) <= placed.columns - 0.5 + 1e-6
    assert len(placed.via[6]) == placed.rank[5] - placed.rank[0] - 1, "a long edge has a place in every rank it passes"
    assert placed == layered([1.0] * 8, edges)


def test_crossings_are_undone_and_ranks_are_not_wide() -> None:
    placed = layered([1.0] * 8, [(0, 7), (1, 6), (2, 5), (3, 4)])
    assert placed.x[0] == pytest.approx(placed.x[7]) and placed.x[3] == pytest.approx(placed.x[4])
    wide = layered([1.0] * 300, [])
    assert wide.columns <= MAX_COLUMNS + 1 and layered([], []).ranks == 0


def test_a_dense_graph_is_laid_out() -> None:
    count = 300
    placed = layered([1.0] * count, [(a, b) for b in range(count) for a in range(max(0, b - 24), b)])
    assert placed.rank == tuple(range(count)), "every node reads the one before it"
