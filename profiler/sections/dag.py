"""The operator graphs of each phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DAG_IN, DAG_OUT = -1, -2  # ends of an edge of a group: what comes from outside its layer, and what leaves it


@dataclass(frozen=True, slots=True)
class DagLeaf:
    """What an operator reads that no operator of the graph makes: drawn as a small mark on its reader."""

    kind: Literal["weight", "input", "cache"]
    name: str  # without the layer's number
    type: str
    ne: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DagNode:
    """An executing operator; in a folded group: the same operator of all the group's layers."""

    op: str
    name: str  # without the layer's number; "" when the engine gave none
    block: str
    type: str  # of the result
    ne: tuple[int, ...]  # shape of the result, of the first layer's where they differ
    members: tuple[int, ...]  # node_index of each layer's
    layers: tuple[int, ...]  # as long as members; () outside the layers
    calls: int  # measured
    mean_ns: float  # one execution, mean over the layers
    min_ns: float  # of the layers' means
    max_ns: float
    total_ns: float  # one graph execution, all layers together
    ns_per_token: float | None  # all layers together
    share: float  # of the graph's time, all layers together
    sources: tuple[str, ...]  # the operators it reads
    leaves: tuple[DagLeaf, ...]
    fused: tuple[str, ...]  # computed as part of it
    bound: str  # a verdict: one of BOUNDS, or "" while none was given


@dataclass(frozen=True, slots=True)
class DagEdge:
    source: int  # position in nodes (of a group) or in items (of a graph); DAG_IN in a group
    target: int  # likewise; DAG_OUT in a group
    kind: Literal["data", "cache"]  # cache: written there, read here, through the KV cache


@dataclass(frozen=True, slots=True)
class DagGroup:
    """Layers of the same structure, folded into one."""

    layers: tuple[int, ...]
    nodes: tuple[DagNode, ...]  # in order of execution
    edges: tuple[DagEdge, ...]
    total_ns: float  # one graph execution, all layers together
    min_ns: float  # one layer: the fastest, the slowest
    max_ns: float
    share: float  # of the graph's time


@dataclass(frozen=True, slots=True)
class DagGraph:
    """A graph that stands for a phase: of those described, one of those with the most measured time."""

    phase: str
    graph_id: int
    pid: int
    context: int | None  # cache rows that its attention reads (n_kv); None: not known
    executions: int  # of it, measured
    phase_graphs: int  # described graphs of the phase that were measured
    phase_executions: int  # of all of them
    phase_share: float  # of the phase's measured time that is this graph's
    tokens: float  # per execution
    graph_ns: float  # mean execution
    operators: int  # that execute
    items: tuple[DagNode | DagGroup, ...]  # in order of execution
    edges: tuple[DagEdge, ...]
    omitted: int  # operators left out of items: those with the least time
    omitted_share: float  # of the graph's time
    unread: int  # nodes beyond the limit on reading


@dataclass(frozen=True, slots=True)
class DagTable:
    graphs: tuple[DagGraph, ...]  # by the phase's measured time, then by their own
