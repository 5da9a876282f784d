"""What the operators of the measured graphs have to do: least times by node, groups by shape. Part of verdicts.py.

A group is a block, an operator and a shape. The shape of a product is its weight's, its type, and the rows that pass
through (`2048x5632 q8_0 · n=1`); of attention the heads, without the cache rows, which grow with the context; of
everything else the result (SET_ROWS and CPY: what is written, not what it is written into).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from flowprof.profiler.analyzers.expert_reads import keep_reads
from flowprof.profiler.analyzers.graph_tensors import TensorRow, Tensors
from flowprof.profiler.analyzers.verdict_waits import Barrier, Node
from flowprof.profiler.machine.ceilings import Ceilings
from flowprof.profiler.roofline.costs import Cost, GraphCost, Shape
from flowprof.profiler.roofline.least_time import LastLevel, Roof, Terms, terms
from flowprof.profiler.store import Recording, read_sql

_NUMBER = re.compile(r"-\d{1,5}(?= |$)|_l\d{1,5}(?= |$)")
_UNNAMED = re.compile(r"^(node_\d+)?$")
_GATHERED = frozenset({"GET_ROWS", "GET_REL_POS"})

Ne = tuple[int, int, int, int]
Rows = Sequence[TensorRow]
Shapes = Sequence[Shape]


@dataclass(frozen=True, slots=True)
class Work:
    """One executing node of a graph."""

    op: str
    block: str
    shape: str
    context: int | None  # rows of the KV cache that it reads
    tensor: str
    layer: int | None
    cost: Cost | None
    terms: Terms | None
    hedges: tuple[str, ...]  # why the count is an estimate


@dataclass(frozen=True, slots=True)
class GraphWork:
    """`nodes` by node_index; `total` is None when the shapes were lost."""

    nodes: Mapping[int, Work]
    total: GraphCost | None
    roof: Roof


@dataclass(slots=True)
class MeasuredGraph:
    """A graph and its measured executions; `work` is None when it was not analysed."""

    graph_id: int
    pid: int
    phase: str
    executions: int
    ns: int  # of all of them
    tokens: int
    work: GraphWork | None


def experts_read(recording: Recording) -> dict[int, dict[int, float]]:
    """graph_id → node_index of an expert operator → how many different experts an execution of it read, on average."""
    keep_reads(recording)
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for graph_id, node, experts in recording.rows(read_sql("verdict_experts.sql")):
        found[graph_id][node] = experts
    return found


def measured_graphs(
    recording: Recording, ceilings: Ceilings, barriers: dict[Node, Barrier], caches: LastLevel
) -> tuple[list[MeasuredGraph], int]:
    """The measured graphs with their work, and how many were too many."""
    threads: dict[int, int] = defaultdict(int)
    for (graph_id, _), barrier in barriers.items():
        threads[graph_id] = max(threads[graph_id], barrier.threads)
    pool = dict(recording.rows(read_sql("verdict_threads.sql")))
    found, roofs = {}, {}
    for graph_id, pid, phase, executions, ns, tokens in recording.rows(read_sql("verdict_graphs.sql")):
        found[graph_id] = MeasuredGraph(graph_id, pid, phase, executions, int(ns), int(tokens), None)
        count = threads.get(graph_id) or pool.get(pid) or 1
        roofs[graph_id] = Roof(ceilings, count, caches.of(count), 0)
    for graph_id, work in read_graphs(recording, roofs):
        found[graph_id].work = work
    return list(found.values()), sum(graph.work is None for graph in found.values())


def read_graphs(recording: Recording, roofs: Mapping[int, Roof]) -> Iterator[tuple[int, GraphWork]]:
    """Graphs with their work, in this order, until they have too many tensors. Roofs need no working set."""
    experts = experts_read(recording)
    tensors = Tensors(recording)
    works: dict[tuple[object, ...], Work] = {}
    least: dict[tuple[object, ...], Terms] = {}  # of like operators of all layers once
    for graph_id, rows in tensors.read(list(roofs)):
        structure, roof = tensors.structure(rows), roofs[graph_id]
        if structure is None:
            lost = {row.index: _lost(row) for row in rows if not row.leaf}
            yield graph_id, GraphWork(lost, None, roof)
            continue
        shapes = [row.shape for row in rows if row.shape is not None]
        used = experts.get(graph_id, {})
        costs, total = structure.costs(shapes, used)
        roof = replace(roof, working_set=_working_set(rows, shapes, structure.weights) + total.kv_bytes)
        above = (roof.threads, roof.llc_bytes, roof.weights_from())
        found = {}
        for node, cost in costs.items():
            row = rows[node]
            key = (structure, node, used.get(node), above, shapes[node], *(shapes[at] for at in row.sources))
            if key not in works:
                if cost is not None and (cost, above) not in least:
                    least[cost, above] = terms(cost, roof)
                need = None if cost is None else least[cost, above]
                works[key] = _work(rows, shapes, node, structure.weights, cost, need, node in used)
            found[node] = works[key]
        yield graph_id, GraphWork(found, total, roof)


def _lost(row: TensorRow) -> Work:
    return Work(row.op, row.block, "shape unknown", None, _plain(row.name), row.layer, None, None, ())


def _work(
    rows: Rows, shapes: Shapes, node: int, weights: frozenset[int], cost: Cost | None, need: Terms | None, routed: bool
) -> Work:
    row = rows[node]
    text, context = _shape(rows, shapes, node, weights)
    return Work(
        op=row.op,
        block=row.block,
        shape=text,
        context=context,
        tensor=_plain(row.name),
        layer=row.layer,
        cost=cost,
        terms=need,
        hedges=() if cost is None else _hedges(cost, shapes[node][1], routed),
    )


def _working_set(rows: Rows, shapes: Shapes, weights: frozenset[int]) -> int:
    """Weights that executions in turn touch: all experts, for the next token takes others; no tables looked up."""
    touched = {
        at for row in rows if row.executes and not row.leaf and row.op not in _GATHERED
        for at in row.sources if at in weights
    }  # fmt: skip
    return sum(shapes[at][2] for at in touched)


def _shape(rows: Rows, shapes: Shapes, node: int, weights: frozenset[int]) -> tuple[str, int | None]:
    """The text, and the cache rows read."""
    row, (kind, ne, _) = rows[node], shapes[node]
    read = [shapes[at] for at in row.sources]
    if row.op in ("MUL_MAT", "MUL_MAT_ID") and len(read) > 1:
        of, matrix, _ = read[0]
        if row.sources[0] not in weights:
            return _product(row.name, ne, read)
        text = f"{matrix[0]}x{matrix[1]} {of}"
        if row.op == "MUL_MAT_ID" and len(read) > 2:
            ids = read[2][1]
            return f"{text} · {ids[0]} of {matrix[2]} experts · n={ids[1]}", None
        return f"{text} · n={prod(ne[1:])}", None
    if row.op == "FLASH_ATTN_EXT" and len(read) > 2:
        q, (of, k, _) = read[0][1], read[1]
        shared = f", {k[2]} of kv" if k[2] != q[2] else ""
        return f"{q[0]} · {q[2]} heads{shared} {of} · n={q[1] * q[3]}", k[1]
    if row.op == "SOFT_MAX" and row.name.startswith("kq"):
        return f"{ne[2]} heads · n={ne[1] * ne[3]}", ne[0]
    shown = read[0][1] if row.op in ("SET_ROWS", "CPY") and read else ne
    return _extents(shown) + f" {kind}", None


def _product(name: str, ne: Ne, read: Shapes) -> tuple[str, int | None]:
    """A product of two activations: kq and kqv in attention without flash attention, anything elsewhere."""
    (kind, left, _), (_, right, _) = read[:2]
    if name.startswith("kqv"):
        return f"{left[1]} · {right[2]} heads {kind} · n={right[1] * right[3]}", left[0]
    if name.startswith("kq"):
        return f"{left[0]} · {right[2]} heads {kind} · n={right[1] * right[3]}", left[1]
    return f"{_extents(left)} {kind} · n={prod(ne[1:])}", None


def _extents(ne: Ne) -> str:
    shown = list(ne)
    while len(shown) > 1 and shown[-1] == 1:
        shown.pop()
    return "x".join(map(str, shown))


def _hedges(cost: Cost, ne: Ne, routed: bool) -> tuple[str, ...]:
    rows = prod(ne[2:])
    if cost.formula == "attention" and rows > 1:
        return ("work of masked cells is counted: the floor may be up to twice too high",)
    if cost.formula == "gemm_experts" and not routed and rows > 1:
        return ("how many experts were read is estimated",)
    return ()


def _plain(name: str) -> str:
    """Without the layer's number; "" for a name that says nothing."""
    name = _NUMBER.sub("", name)
    return "" if _UNNAMED.match(name) else name
