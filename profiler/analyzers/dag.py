"""The operator graph of each phase, rebuilt from the tensors' sources, with measured times, folded by layer.

A phase is shown by its described graphs with the most measured time, at most MAX_GRAPHS of them (a growing context
makes one for each of its lengths). Their nodes are the operators that execute. Edges follow `sources` through whatever
does not execute: a view stands for what it looks at; a node that was fused belongs to the operator that computes it,
with its weights. Weights, inputs and the KV cache are marks on their readers. What is written to the cache and read
from it in the same graph is an edge of kind "cache", for no tensor connects the two.

Layers with the same sequence of op, block, name (without the layer's number), relative edges and leaves are folded into
one group, next to each other or not: its nodes hold the mean over its layers, the fastest and the slowest. Times are
wall time on the first thread. Of more than MAX_NODES nodes those with the most time stay, and edges run through what is
left out. The optional `bounds` maps (graph_id, node_index) to one of BOUNDS; a folded node takes the verdict
that covers most of its time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from flowprof.profiler.analyzers import verdicts
from flowprof.profiler.analyzers.contract import GRAPHS, OPERATORS, Analyzer, Result, ratio
from flowprof.profiler.analyzers.dag_fold import build
from flowprof.profiler.analyzers.dag_tensors import read
from flowprof.profiler.sections.dag import DagGraph, DagTable
from flowprof.profiler.store import Recording, read_sql

log = logging.getLogger(__name__)

MAX_GRAPHS = 6  # of a phase


def graphs(recording: Recording, bounds: Mapping[tuple[int, int], str] | None = None) -> DagTable:
    """The graphs of every phase that was measured, each phase's dearest first."""
    made = []
    for phase, graph_id, pid, context, executions, tokens, ns, count, phase_executions, phase_ns in recording.rows(
        read_sql("dag_graphs.sql"), {"most": MAX_GRAPHS}
    ):
        tensors, unread = read(recording, graph_id)
        graph_ns, per_execution = float(ns) / executions, float(tokens) / executions
        items, edges, omitted, omitted_share = build(tensors, graph_id, graph_ns, per_execution, bounds)
        made.append(
            DagGraph(
                phase=phase,
                graph_id=graph_id,
                pid=pid,
                context=context,
                executions=executions,
                phase_graphs=count,
                phase_executions=int(phase_executions),
                phase_share=ratio(ns, phase_ns) or 0.0,
                tokens=per_execution,
                graph_ns=graph_ns,
                operators=sum(tensor.executes and not tensor.leaf for tensor in tensors.values()),
                items=items,
                edges=edges,
                omitted=omitted,
                omitted_share=omitted_share,
                unread=unread,
            )
        )
    return DagTable(tuple(made))


def analyze(recording: Recording) -> Result:
    return Result(graphs(recording, _bounds(recording)))


def _bounds(recording: Recording) -> Mapping[tuple[int, int], str]:
    """The verdicts' analyzer says itself why it failed: the graph is then drawn without them."""
    try:
        return verdicts.node_bounds(recording)
    except Exception:
        log.debug("no verdicts for the graph", exc_info=True)
        return {}


ANALYZER = Analyzer("dag", "Graph", (GRAPHS, OPERATORS), analyze)
