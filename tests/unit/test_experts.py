"""Ids of experts: events → rows, rows → entropy, imbalance, reuse and findings, all worked out by hand."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flowprof.profiler.analyzers import experts
from flowprof.profiler.analyzers.expert_reuse import Distances
from flowprof.profiler.analyzers.verdict_work import experts_read
from flowprof.profiler.ggml.graphs import GraphBook
from flowprof.profiler.ggml.layout_table import KNOWN
from flowprof.profiler.ggml.names import OpNames
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.record.decode import Decoded
from flowprof.profiler.sections.experts import ExpertTable
from flowprof.profiler.sections.outcome import Outcome
from flowprof.profiler.store import Recording
from numpy.typing import NDArray
from test_decode import MAIN, OP_LEVEL, SECOND, THREADS, A, B, C, begin, decoder, end, op, together, windows

TODAY = KNOWN[0]

# -- events -----------------------------------------------------------------------------------------------------------


def ids(at: int, token: int, *chosen: int, part: int = 0, tid: int = MAIN) -> NDArray[np.void]:
    made = np.zeros(1, ring.EVENT)
    made["kind"], made["at_ns"], made["tid"] = ring.EXPERTS, at, tid
    made["ith"] = token | part << 20 | len(chosen) << 24
    slots = np.full(8, -1, np.int32)
    slots[: len(chosen)] = chosen
    made["a"], made["b"], made["c"], made["d"] = slots.view(np.uint64)
    return made


def use_rows(out: Decoded) -> list[tuple[int, ...]]:
    """(exec, node, token, rank, expert)."""
    columns = ("exec_id", "node_index", "token", "rank", "expert")
    return list(zip(*(out.expert_use[name].tolist() for name in columns), strict=True)) if out.expert_use else []


ONE = [(0, 1, 0, 0, 5), (0, 1, 0, 1, 2)]


@pytest.mark.parametrize(
    ("events", "rows", "lost"),
    [
        (together(OP_LEVEL, ids(130, 0, 5, 2)), ONE, 0),
        (together(OP_LEVEL, ids(130, 0, 5, 2), ids(130, 1, 3, 0)), [*ONE, (0, 1, 1, 0, 3), (0, 1, 1, 1, 0)], 0),
        (together(THREADS, ids(130, 0, 5, 2)), ONE, 0),
        (together(THREADS, ids(132, 0, 5, 2, tid=SECOND)), ONE, 0),  # builds of 2023: any thread is the first
        (
            together(OP_LEVEL, ids(130, 9, *range(20, 28)), ids(130, 9, 7, 6, part=1)),  # ten experts per token
            [(0, 1, 9, rank, expert) for rank, expert in enumerate([*range(20, 28), 7, 6])], 0,
        ),
        (together(OP_LEVEL, ids(130, 0, 5, -1)), ONE[:1], 1),  # could not be read
        (together(OP_LEVEL, ids(131, 0, 5, 2)), [], 2),  # no operator started then
        (together(OP_LEVEL, ids(130, 0, 5, 2, tid=SECOND)), [], 2),
        (ids(130, 0, 5, 2), [], 2),  # no graph
        (together(begin(100), op(110, A), op(130, B), ids(130, 0, 5, 2)), [], 0),  # graph without an end: it waits
    ],
)  # fmt: skip
def test_an_event_belongs_to_its_operator(events: Any, rows: list[tuple[int, ...]], lost: int) -> None:
    out = decoder().decode(events, windows("thread"))
    assert (use_rows(out), out.lost_ids) == (rows, lost)


def test_executions_that_do_not_count_have_no_experts() -> None:
    out = decoder().decode(together(OP_LEVEL, ids(130, 0, 5, 2)), windows("token"))
    assert (use_rows(out), out.lost_ids) == ([], 0)


def test_batches_may_be_cut_anywhere() -> None:
    again = together(begin(300), op(305, A), op(310, B), ids(310, 0, 1, 0), op(350, C), end(400))
    events = together(OP_LEVEL[:3], ids(130, 0, 5, 2), OP_LEVEL[3:], again)
    for cut in range(len(events) + 1):
        one, shared = decoder(), windows("op")
        outs = [one.decode(part, shared) for part in (events[:cut], events[cut:])]
        assert [row for out in outs for row in use_rows(out)] == [*ONE, (1, 1, 0, 0, 1), (1, 1, 0, 1, 0)], cut


# -- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "bits", "uneven", "top"),
    [
        ([10, 10, 10, 10], 2.0, 1.0, 0.25),
        ([40, 0, 0, 0], 0.0, 4.0, 1.0),
        ([20, 10, 10, 0], 1.5, 2.0, 0.5),
        ([0, 5, 0, 5, 0, 0, 0, 0], 1.0, 4.0, 1.0),
        ([7], 0.0, 1.0, 1.0),
        ([0, 0], 0.0, 0.0, 0.0),
    ],
)
def test_entropy_and_imbalance(counts: list[int], bits: float, uneven: float, top: float) -> None:
    assert experts.entropy_bits(counts) == pytest.approx(bits)
    assert experts.imbalance(counts) == pytest.approx(uneven)
    assert experts.top_share(counts) == pytest.approx(top)


@pytest.mark.parametrize(
    ("counts", "used", "p"),
    [
        ([25, 25, 25, 25], 1, 1.0),
        ([30, 20, 25, 25], 1, 0.5724),  # χ² = 2 with 3 degrees of freedom
        ([40, 20, 20, 20], 1, 0.0074),  # χ² = 12
        ([40, 20, 20, 20], 2, 0.00044),  # two different ones each: 12 × 3/2 = 18
        ([4, 4, 4, 4], 1, None),  # too few
        ([50, 50], 2, None),  # all of them always
    ],
)
def test_uniform_routing_is_tested(counts: list[int], used: int, p: float | None) -> None:
    found = experts.p_uniform(counts, used)
    assert found == (None if p is None else pytest.approx(p, rel=0.05, abs=1e-4))


@pytest.mark.parametrize(
    ("distances", "uses", "first", "tokens", "count", "expected"),
    [
        ([1], [98], 2, 50, 8, (1.0, 1.0, 2.0, 0.02)),  # always the same two: two are held
        ([2], [96], 4, 50, 8, (2.0, 2.0, 4.0, 0.04)),  # two pairs in turn: four
        ([1, 10], [90, 10], 0, 100, 8, (1.0, 1.0, 1.0, 0.0)),
        ([1, 10], [50, 50], 0, 100, 8, (1.0, 10.0, 5.5, 0.0)),
        ([], [], 5, 5, 8, (None, None, None, 1.0)),
    ],
)
def test_reuse(
    distances: list[int], uses: list[int], first: int, tokens: int, count: int, expected: tuple[float | None, ...]
) -> None:
    counted = Distances(np.array(distances, np.int64), np.array(uses, np.int64), first)
    found = experts.reuse(counted, tokens, count)
    assert (found.p50, found.p90, found.hold, found.cold) == expected


# -- recordings -------------------------------------------------------------------------------------------------------

MS = 1_000_000
EXPERT_BYTES = 3 * 1000  # three matrices


def analysed(
    tmp_path: Path, batches: list[list[tuple[int, ...]]], count: int = 8, phase: str = "decode", missing: int = -1
) -> tuple[Outcome, dict[tuple[int, int], float]]:
    """One layer; a batch is an execution: its tokens' experts. Of number `missing` the last token's were not read."""
    path = str(tmp_path / "experts.duckdb")
    used = len(batches[0][0])
    graphs = {size: 1 + at for at, size in enumerate(sorted({len(batch) for batch in batches}))}
    with Recording.create(path, overwrite=True) as recording:
        recording.append("probe_window", {"window_id": [1], "level": "op", "start_ns": 0, "end_ns": len(batches) * MS})
        for size, graph_id in graphs.items():
            recording.append("graph", {"graph_id": [graph_id], "pid": 1, "nodes": 4, "operators": 4, "tokens": size,
                                       "outputs": 1, "phase": phase, "described": True})  # fmt: skip
            recording.append("graph_node", {
                "graph_id": graph_id, "node_index": list(range(8)), "leaf": [False] * 4 + [True] * 4,
                "op": ["VIEW", "MUL_MAT_ID", "MUL_MAT_ID", "MUL_MAT_ID", *["NONE"] * 4], "name": "n", "type": "f32",
                "layer": 3, "block": "moe", "ne": [[used, size, 1, 1], *[[64, used, size, 1]] * 3,
                                                   *[[64, 64, count, 1]] * 3, [64, size, 1, 1]],
                "size_bytes": 1000 * count, "data_bytes": 1000 * count,
                "sources": [[7], [4, 7, 0], [5, 7, 0], [6, 1, 0], [], [], [], []], "executes": True,
            })  # fmt: skip
        for number, batch in enumerate(batches):
            recording.append("graph_exec", {"exec_id": [number], "pid": 1, "tid": 1, "graph_id": graphs[len(batch)],
                                            "window_id": 1, "start_ns": number * MS, "end_ns": number * MS + MS // 2,
                                            "level": "op"})  # fmt: skip
            rows = [(token, rank, expert) for token, chosen in enumerate(batch) for rank, expert in enumerate(chosen)]
            token, rank, expert = zip(*(rows[:-used] if number == missing else rows), strict=True)
            recording.append("expert_use", {"exec_id": number, "node_index": 1, "token": list(token),
                                            "rank": list(rank), "expert": list(expert)})  # fmt: skip
    with Recording.open(path) as recording:
        return experts.ANALYZER.run(recording), experts_read(recording)


def found(outcome: Outcome) -> list[str]:
    assert outcome.status == "ok", outcome.reason
    return [finding.id for finding in outcome.findings]


def test_a_known_layer(tmp_path: Path) -> None:
    """Three tokens, then two in one batch."""
    outcome, used = analysed(tmp_path, [[(0, 1)], [(1, 2)], [(0, 1)], [(0, 3), (3, 0)]])
    assert isinstance(outcome.value, ExpertTable)
    (layer,) = outcome.value.layers
    assert (layer.layer, layer.experts, layer.used, layer.executions, layer.tokens) == (3, 8, 2, 4, 5)
    assert layer.counts == (4, 3, 1, 2, 0, 0, 0, 0) and layer.touched == 4
    assert layer.distinct == 2.0 and layer.distinct_uniform == pytest.approx((3 * 2 + 8 * (1 - 0.75**2)) / 4)
    assert (layer.expert_bytes, layer.bytes_per_token) == (EXPERT_BYTES, 8 * EXPERT_BYTES / 5)
    assert (layer.reuse_p50, layer.reuse_p90) == (1.0, 2.0)  # 0: 2, 1, 1 · 1: 1, 1 · 3: 1
    assert used == {graph: dict.fromkeys((1, 2, 3), 2.0) for graph in (1, 2)}  # gate, up and down share the ids
    (phase,) = outcome.value.phases
    assert (phase.executions, phase.graphs, phase.touched_share, phase.read_share) == (4, 4, 0.5, 0.25)


def test_incomplete_reads_count_for_shares_only(tmp_path: Path) -> None:
    outcome, used = analysed(tmp_path, [[(0, 1), (2, 3)], [(0, 1), (2, 3)], [(0, 1), (0, 1)]], missing=1)
    (layer,) = outcome.value.layers
    assert (sum(layer.counts), layer.distinct, used[1][1]) == (10, 3.0, 3.0)
    assert layer.reuse_p50 == 1.0  # no distance goes across the hole: only the last batch repeats


def tokens(count: int, *chosen: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    return [[chosen[at % len(chosen)]] for at in range(count)]


def uniform(count: int) -> list[list[tuple[int, ...]]]:
    random = np.random.default_rng(3)
    return [[tuple(random.permutation(8)[:2].tolist())] for _ in range(count)]


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        (uniform(400), []),
        (uniform(40), []),
        (tokens(400, (2, 5)), ["experts.imbalance", "experts.locality"]),
        (tokens(19, (2, 5)), []),  # 4.75 uses per expert: too few to say
        (tokens(21, (2, 5)), ["experts.imbalance", "experts.locality"]),
        (tokens(400, (0, 1), (2, 3), (4, 5), (6, 7)), []),  # even, and all are needed in turn
        (tokens(400, *[(0, 1)] * 50, *[(2, 3)] * 50, *[(4, 5)] * 50, *[(6, 7)] * 50), ["experts.locality"]),
        (tokens(400, (0, 1, 2, 3, 4, 5, 6, 7)), []),  # a dense model in disguise
    ],
)
def test_findings(tmp_path: Path, batches: list[list[tuple[int, ...]]], expected: list[str]) -> None:
    assert found(analysed(tmp_path, batches)[0]) == expected


def test_the_busy_experts_are_named(tmp_path: Path) -> None:
    (finding, _) = analysed(tmp_path, tokens(400, (2, 5)))[0].findings
    assert "layer 3: experts 2, 5 of 8" in finding.evidence[0] and finding.confidence == "medium"
    assert "1 of 1 layers" in finding.claim and "100 %" in finding.claim


@pytest.mark.parametrize(("count", "layers"), [(4096, 1), (4097, 0), (1 << 40, 0), (-1, 0), (0, 0)])
def test_a_number_of_experts_that_no_model_has_is_not_believed(tmp_path: Path, count: int, layers: int) -> None:
    outcome, used = analysed(tmp_path, [[(0, 1)]] * 3, count=count)
    assert outcome.status == "ok" and isinstance(outcome.value, ExpertTable)
    assert (len(outcome.value.layers), len(used)) == (layers, layers)


def test_prefill_has_no_locality(tmp_path: Path) -> None:
    assert found(analysed(tmp_path, [[(2, 5)] * 50] * 4, phase="prefill")[0]) == ["experts.imbalance"]


# -- where the ids are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "types", "ops", "expected"),
    [
        ((1, 2, 3), ("f32", "q8_0", "f32", "i32"), ("NONE", "MUL_MAT_ID"), (80, 152 + 16, 248, 48, 1)),
        ((3, 2, 1), ("f32", "q8_0", "f32", "i32"), ("NONE", "MUL_MAT_ID"), None),  # until March 2024: ids first
        ((2, 3), ("f32", "q8_0", "f32", "i32"), ("NONE", "MUL_MAT_ID"), None),
        ((1, 2, 3), ("f32", "q8_0", "f32", "i32"), ("NONE",), None),
    ],
)
def test_the_programs_read_ids_only_where_they_are(
    sources: tuple[int, ...], types: tuple[str, ...], ops: tuple[str, ...], expected: tuple[int, ...] | None
) -> None:
    book = GraphBook(os.getpid(), [], lambda: 1)
    book.layouts, book._names = TODAY, OpNames(ops, ())
    graph: Any = SimpleNamespace(n_nodes=1, op=("MUL_MAT_ID", *["NONE"] * 3), sources=(sources, (), (), ()), type=types)
    assert book.expert_fields(graph) == expected
