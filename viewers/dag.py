"""The graph view's data for js/dag.js: each phase's folded graphs with positions (layered.py) and texts.

Texts are made here, cleaned and cut, so that the script only places them. Positions are in columns and ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowprof.profiler.sections.bound import BOUNDS
from flowprof.profiler.sections.dag import DAG_OUT, DagGraph, DagGroup, DagNode, DagTable
from flowprof.viewers.layered import Layout, layered
from flowprof.viewers.quantity import clean, count, duration, percent, size

STEPS = (0.005, 0.01, 0.02, 0.05, 0.10, 0.20)  # shares of the graph's time at which the colour changes
MAX_LISTED = 8
PORT_WIDTH = 0.3
CLOSED_WIDTH = 1.35  # columns of a closed group
MARGIN = 0.16  # columns at both sides of an open group


def graph_data(table: DagTable | None) -> dict[str, Any]:
    """For `<script type="application/json">`; `graphs` is empty when there is nothing to draw."""
    drawn = [graph for graph in table.graphs if graph.items] if table else []
    graphs = [_graph(graph, [other for other in drawn if other.phase == graph.phase]) for graph in drawn]
    return {"graphs": graphs, "steps": STEPS, "bounds": BOUNDS}


def _graph(graph: DagGraph, like: Sequence[DagGraph]) -> dict[str, Any]:
    """like: the graphs of its phase."""
    items = [_group(item) if isinstance(item, DagGroup) else _node(item) for item in graph.items]
    placed = layered([item.get("width", 1.0) for item in items], [(edge.source, edge.target) for edge in graph.edges])
    return {
        "phase": clean(graph.phase, 20),
        "label": _label(graph, like),
        "note": _note(graph, len(like)),
        "items": _put(items, placed),
        "edges": [
            [edge.source, edge.target, edge.kind, via] for edge, via in zip(graph.edges, placed.via, strict=True)
        ],
        "columns": placed.columns,
        "ranks": placed.ranks,
    }


def _label(graph: DagGraph, like: Sequence[DagGraph]) -> str:
    """Its share of the phase, and what tells it from the other graphs of the phase."""
    words = [percent(graph.phase_share)]
    if len({other.tokens for other in like}) > 1:
        words.append(f"{graph.tokens:.0f} token{'s' * (round(graph.tokens) != 1)}")
    if len({other.context for other in like}) > 1 and graph.context is not None:
        words.append(f"context {count(graph.context)}")
    if len({other.pid for other in like}) > 1:
        words.append(f"process {graph.pid}")
    return ", ".join(words)


def _note(graph: DagGraph, drawn: int) -> str:
    """drawn: graphs of its phase that may be chosen."""
    words = [
        f"{count(graph.operators)} operators in {duration(graph.graph_ns)}",
        f"mean of {count(graph.executions)} executions",
    ]
    if graph.phase_graphs > 1:
        words.append(
            f"{percent(graph.phase_share)} of the measured time of {count(graph.phase_graphs)} different graphs in"
            f" {clean(graph.phase, 20)}"
        )
    if graph.phase_graphs > drawn:
        words.append(f"{count(graph.phase_graphs - drawn)} with less time are not drawn")
    if graph.omitted:
        words.append(
            f"{count(graph.omitted)} operators with the least time ({percent(graph.omitted_share)} in all)"
            " are not drawn"
        )
    if graph.unread:
        words.append(f"{count(graph.unread)} more tensors were not read")
    return "; ".join(words) + "."


def _put(items: list[dict[str, Any]], placed: Layout) -> list[dict[str, Any]]:
    return [item | {"x": x, "rank": rank} for item, x, rank in zip(items, placed.x, placed.rank, strict=True)]


def _group(group: DagGroup) -> dict[str, Any]:
    total = len(group.nodes)
    # The ports come first and last: what enters a layer, and what leaves it.
    edges = [(edge.source + 1, total + 1 if edge.target == DAG_OUT else edge.target + 1) for edge in group.edges]
    placed = layered([PORT_WIDTH, *[1.0] * total, PORT_WIDTH], edges)
    times = len(group.layers)
    per_layer = group.total_ns / times
    spread = f" ({duration(group.min_ns)} … {duration(group.max_ns)})" if times > 1 else ""
    return {
        "layers": _ranges(group.layers),
        "numbers": list(group.layers),
        "times": times,
        "time": duration(per_layer),
        "share": percent(group.share),
        "heat": _heat(group.share),
        "lines": [
            f"{duration(per_layer)}{' a layer' if times > 1 else ''}{spread}",
            f"{percent(group.share)} of the graph's time, {total} operators{' each' if times > 1 else ''}",
        ],
        "nodes": _put([_node(node) for node in group.nodes], Layout(placed.rank[1:-1], placed.x[1:-1], (), 0, 0)),
        "ports": [[placed.x[0], placed.rank[0]], [placed.x[-1], placed.rank[-1]]],
        "edges": [
            [source - 1, target - 1, edge.kind, via]
            for (source, target), edge, via in zip(edges, group.edges, placed.via, strict=True)
        ],
        "ranks": placed.ranks,
        "width": max(CLOSED_WIDTH, placed.columns + 2 * MARGIN),
        "inner": placed.columns,
    }


def _node(node: DagNode) -> dict[str, Any]:
    times = len(node.members)
    lines = [f"{clean(node.type, 20)} {'×'.join(map(str, _shape(node.ne)))}".strip()]
    if not node.calls:
        lines.append("not measured")
    elif times > 1:
        lines.append(f"{duration(node.mean_ns)} a layer ({duration(node.min_ns)} … {duration(node.max_ns)})")
        lines.append(f"{duration(node.total_ns)} in {times} layers, {percent(node.share)} of the graph's time")
    else:
        lines.append(f"{duration(node.mean_ns)}, {percent(node.share)} of the graph's time")
    if node.ns_per_token is not None and node.calls:
        lines.append(f"{duration(node.ns_per_token)} per token, from {count(node.calls)} measured calls")
    return {
        "name": clean(node.name, 80),
        "op": clean(node.op, 60),
        "block": clean(node.block, 30),
        "layers": _ranges(node.layers),
        "times": times,
        "time": duration(node.mean_ns) if node.calls else "–",
        "share": percent(node.share) if node.calls else "",
        "cost": node.share,
        "heat": _heat(node.share),
        "bound": node.bound if node.bound in BOUNDS else "",
        "lines": lines,
        "sources": [clean(name, 80) for name in node.sources[:MAX_LISTED]],
        "leaves": [
            [leaf.kind, clean(leaf.name, 80),
             f"{clean(leaf.type, 20)} {'×'.join(map(str, _shape(leaf.ne)))}, {size(leaf.size_bytes)}"]
            for leaf in node.leaves[:MAX_LISTED]
        ],
        "fused": [clean(name, 80) for name in node.fused[:MAX_LISTED]],
    }  # fmt: skip


def _heat(share: float) -> int:
    return sum(share >= step for step in STEPS)


def _shape(ne: tuple[int, ...]) -> tuple[int, ...]:
    """Without the ones at the end, as people write shapes."""
    shape = ne[:4]
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _ranges(numbers: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) → "0–2, 5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    words = [str(low) if low == high else f"{low}–{high}" for low, high in parts]
    return ", ".join(words[:6]) + (f" … {words[-1]}" if len(words) > 6 else "")
