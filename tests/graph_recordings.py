"""Small recordings of graphs made by hand, for the graph view and the drift: rows in, a finished file out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowprof.profiler.store import Recording

START_NS = 1_000_000_000
PID = 77


@dataclass(frozen=True, slots=True)
class Node:
    op: str
    name: str
    sources: tuple[int, ...] = ()
    ns: int | None = None  # one execution; None: does not execute
    layer: int | None = None
    block: str = "other"
    ne: tuple[int, ...] = (64, 1, 1, 1)
    leaf: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    nodes: Sequence[Node]
    executions: int = 3
    phase: str = "decode"
    tokens: int = 1
    level: str = "op"
    step_ns: Sequence[int] = field(default=())  # of each execution; () = the sum of the operators


def write_graphs(path: Path, graphs: Sequence[Graph]) -> None:
    now, exec_id = START_NS, 0
    with Recording.create(str(path), overwrite=True) as recording:
        for graph_id, graph in enumerate(graphs, 1):
            nodes = graph.nodes
            count = len(nodes)
            running = [index for index, node in enumerate(nodes) if node.ns is not None]
            recording.append("graph", {
                "graph_id": [graph_id], "pid": PID, "uid": graph_id, "nodes": sum(not node.leaf for node in nodes),
                "operators": len(running), "tokens": graph.tokens, "outputs": 1, "phase": graph.phase,
                "described": True,
            })  # fmt: skip
            recording.append("graph_node", {
                "graph_id": graph_id, "node_index": list(range(count)), "leaf": [node.leaf for node in nodes],
                "op": [node.op for node in nodes], "name": [node.name for node in nodes], "type": "f32",
                "layer": [node.layer for node in nodes], "block": [node.block for node in nodes],
                "ne": [list(node.ne) for node in nodes], "size_bytes": 256,
                "sources": [list(node.sources) for node in nodes],
                "executes": [node.ns is not None for node in nodes],
            })  # fmt: skip
            for number in range(graph.executions):
                at = now
                rows: dict[str, list[Any]] = {"node_index": [], "start_ns": [], "end_ns": []}
                for index in running:
                    rows["node_index"].append(index)
                    rows["start_ns"].append(at)
                    at += nodes[index].ns or 0
                    rows["end_ns"].append(at)
                end = now + graph.step_ns[number] if graph.step_ns else at
                recording.append("graph_exec", {
                    "exec_id": [exec_id], "pid": PID, "tid": PID, "graph_id": graph_id, "window_id": 0,
                    "start_ns": now, "end_ns": end, "level": graph.level,
                })  # fmt: skip
                if graph.level != "token":
                    recording.append("op_exec", {
                        "exec_id": exec_id, "tid": PID, "ith": 0, "compute_end_ns": None, **rows,
                    })  # fmt: skip
                exec_id += 1
                now = max(end, at) + 1_000
