"""What the operators of the measured graphs have to do: least times by node, groups by shape. Part of verdicts.py.

A group is a block, an operator and a shape. The shape of a product is its weight's, its type, and the rows that pass
through (`2048x5632 q8_0 · n=1`); of attention the heads, without the cache rows, which grow with the context; of
everything else the result (SET_ROWS and CPY: what is written, not what it is written into).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from flowprof.profiler.analyzers.verdict_waits import Barrier, Node
from flowprof.profiler.ggml.model_facts import find_weights
from flowprof.profiler.machine.ceilings import Ceilings
from flowprof.profiler.roofline.costs import Cost, GraphCost, graph_costs
from flowprof.profiler.roofline.least_time import Roof, Terms, terms
from flowprof.profiler.store import Recording, read_sql

MAX_NODES = 300_000  # of all graphs together; those with the least time are left out
_COLUMNS = ("node_index", "leaf", "op", "name", "type", "layer", "block", "ne", "data_bytes", "sources", "executes")
_NUMBER = re.compile(r"-\d{1,5}(?= |$)|_l\d{1,5}(?= |$)")
_UNNAMED = re.compile(r"^(node_\d+)?$")
_GATHERED = frozenset({"GET_ROWS", "GET_REL_POS"})

Ne = tuple[int, int, int, int]


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
    phase: str
    executions: int
    ns: int  # of all of them
    tokens: int
    work: GraphWork | None


@dataclass(frozen=True, slots=True)
class _Rows:
    """A graph's tensors as columns, whole and consistent."""

    columns: Mapping[str, list[Any]]
    op: list[str]
    name: list[str]
    type: list[str]
    ne: list[Ne]
    data_bytes: list[int]
    sources: list[tuple[int, ...]]
    executes: list[bool]
    nodes: int


def experts_read(recording: Recording) -> dict[int, dict[int, float]]:
    """graph_id → node_index of an expert operator → how many different experts an execution of it read, on average."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for graph_id, node, experts in recording.rows(read_sql("verdict_experts.sql")):
        found[graph_id][node] = experts
    return found


def measured_graphs(
    recording: Recording, ceilings: Ceilings, barriers: dict[Node, Barrier], llc_bytes: int | None
) -> tuple[list[MeasuredGraph], int]:
    """The measured graphs with their work, and how many were too many."""
    threads: dict[int, int] = defaultdict(int)
    for (graph_id, _), barrier in barriers.items():
        threads[graph_id] = max(threads[graph_id], barrier.threads)
    pool = dict(recording.rows(read_sql("verdict_threads.sql")))
    experts = experts_read(recording)
    found, size, left_out = [], 0, 0
    for graph_id, pid, phase, executions, ns, tokens in recording.rows(read_sql("verdict_graphs.sql")):
        graph = MeasuredGraph(graph_id, phase, executions, int(ns), int(tokens), None)
        found.append(graph)
        if size >= MAX_NODES:
            left_out += 1
            continue
        roof = Roof(ceilings, threads.get(graph_id) or pool.get(pid) or 1, llc_bytes, 0)
        graph.work, tensors = read_graph(recording, graph_id, experts.get(graph_id, {}), roof)
        size += tensors
    return found, left_out


def read_graph(recording: Recording, graph_id: int, experts: Mapping[int, float], roof: Roof) -> tuple[GraphWork, int]:
    """A graph's work and its number of tensors. `roof` has everything but the working set."""
    rows = recording.rows(read_sql("verdict_nodes.sql"), {"graph": graph_id})
    read = _whole(rows)
    if read is None:
        lost = {
            row[0]: Work(row[2] or "", row[6] or "other", "shape unknown", None, _plain(row[3] or ""), row[5], None,
                         None, ())
            for row in rows
            if not row[1]
        }  # fmt: skip
        return GraphWork(lost, None, roof), len(rows)
    costs, total = graph_costs(read.columns, experts)
    weights = find_weights(read.name, read.op, read.sources, read.nodes)
    roof = Roof(roof.ceilings, roof.threads, roof.llc_bytes, _working_set(read, weights) + total.kv_bytes)
    found = {}
    for node in range(read.nodes):
        if not read.executes[node]:
            continue
        cost = costs.get(node)
        text, context = _shape(read, node, weights)
        found[node] = Work(
            op=read.op[node],
            block=rows[node][6] or "other",
            shape=text,
            context=context,
            tensor=_plain(read.name[node]),
            layer=rows[node][5],
            cost=cost,
            terms=None if cost is None else terms(cost, roof),
            hedges=() if cost is None else _hedges(cost, read, node, node in experts),
        )
    return GraphWork(found, total, roof), len(rows)


def _whole(rows: Sequence[Sequence[Any]]) -> _Rows | None:
    """None when something is missing or points nowhere: a truncated description says nothing."""
    columns: dict[str, list[Any]] = {name: [row[at] for row in rows] for at, name in enumerate(_COLUMNS)}
    count = len(rows)
    for at, row in enumerate(rows):
        index, ne, size, sources = row[0], row[7], row[8], row[9]
        if index != at or not isinstance(ne, list) or len(ne) != 4 or not isinstance(size, int) or size < 0:
            return None
        if any(not isinstance(extent, int) or extent < 0 for extent in ne):
            return None
        if not isinstance(sources, list) or any(not isinstance(at, int) or not 0 <= at < count for at in sources):
            return None
    for name in ("op", "name", "type"):
        columns[name] = ["" if value is None else str(value) for value in columns[name]]
    return _Rows(
        columns=columns,
        op=columns["op"],
        name=columns["name"],
        type=columns["type"],
        ne=[tuple(ne) for ne in columns["ne"]],
        data_bytes=columns["data_bytes"],
        sources=[tuple(row) for row in columns["sources"]],
        executes=[bool(value) for value in columns["executes"]],
        nodes=sum(1 for leaf in columns["leaf"] if not leaf),
    )


def _working_set(read: _Rows, weights: frozenset[int]) -> int:
    """Weights that executions in turn touch: all experts, for the next token takes others; no tables looked up."""
    touched = {
        at for node in range(read.nodes) if read.executes[node] and read.op[node] not in _GATHERED
        for at in read.sources[node] if at in weights
    }  # fmt: skip
    return sum(read.data_bytes[at] for at in touched)


def _shape(read: _Rows, node: int, weights: frozenset[int]) -> tuple[str, int | None]:
    """The text, and the cache rows read."""
    op, ne, sources = read.op[node], read.ne[node], read.sources[node]
    if op in ("MUL_MAT", "MUL_MAT_ID") and len(sources) > 1:
        matrix = read.ne[sources[0]]
        if sources[0] not in weights:
            return _product(read, node)
        text = f"{matrix[0]}x{matrix[1]} {read.type[sources[0]]}"
        if op == "MUL_MAT_ID" and len(sources) > 2:
            ids = read.ne[sources[2]]
            return f"{text} · {ids[0]} of {matrix[2]} experts · n={ids[1]}", None
        return f"{text} · n={prod(ne[1:])}", None
    if op == "FLASH_ATTN_EXT" and len(sources) > 2:
        q, k = read.ne[sources[0]], read.ne[sources[1]]
        shared = f", {k[2]} of kv" if k[2] != q[2] else ""
        return f"{q[0]} · {q[2]} heads{shared} {read.type[sources[1]]} · n={q[1] * q[3]}", k[1]
    if op == "SOFT_MAX" and read.name[node].startswith("kq"):
        return f"{ne[2]} heads · n={ne[1] * ne[3]}", ne[0]
    slot = {"SET_ROWS": 0, "CPY": 0}.get(op)
    shown = read.ne[sources[slot]] if slot is not None and sources else ne
    return _extents(shown) + f" {read.type[node]}", None


def _product(read: _Rows, node: int) -> tuple[str, int | None]:
    """A product of two activations: kq and kqv in attention without flash attention, anything elsewhere."""
    left, right = (read.ne[at] for at in read.sources[node][:2])
    kind = read.type[read.sources[node][0]]
    name = read.name[node]
    if name.startswith("kqv"):
        return f"{left[1]} · {right[2]} heads {kind} · n={right[1] * right[3]}", left[0]
    if name.startswith("kq"):
        return f"{left[0]} · {right[2]} heads {kind} · n={right[1] * right[3]}", left[1]
    return f"{_extents(left)} {kind} · n={prod(read.ne[node][1:])}", None


def _extents(ne: Ne) -> str:
    shown = list(ne)
    while len(shown) > 1 and shown[-1] == 1:
        shown.pop()
    return "x".join(map(str, shown))


def _hedges(cost: Cost, read: _Rows, node: int, routed: bool) -> tuple[str, ...]:
    rows = prod(read.ne[node][2:]) if cost.formula == "attention" else 1
    if cost.formula == "attention" and rows > 1:
        return ("work of masked cells is counted: the floor may be up to twice too high",)
    if cost.formula == "gemm_experts" and not routed and prod(read.ne[node][2:]) > 1:
        return ("how many experts were read is estimated",)
    return ()


def _plain(name: str) -> str:
    """Without the layer's number; "" for a name that says nothing."""
    name = _NUMBER.sub("", name)
    return "" if _UNNAMED.match(name) else name
