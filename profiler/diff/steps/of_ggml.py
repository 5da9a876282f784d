"""The steps of ggml's graphs: one execution each, its operators by what they do. A source of `steps.py`.

A group is a phase, block, operator, tensor (without the layer's number) and shape without the number of tokens, which
differs from batch to batch. A decode step is as long as its graph and the gap before it (sampling, the server's own
work); of prefill only the graph counts. Steps that lost an operator are left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.analyzers import verdict_waits
from flowprof.profiler.analyzers.contract import recorded_ceilings
from flowprof.profiler.analyzers.slices import slices
from flowprof.profiler.analyzers.verdict_waits import Node
from flowprof.profiler.analyzers.verdict_work import GraphWork, Work, read_graphs
from flowprof.profiler.diff.result import Part
from flowprof.profiler.diff.steps import levels
from flowprof.profiler.diff.steps.growing import Name, growing
from flowprof.profiler.diff.steps.steps import Floats, Group, GroupFacts, Ints, Steps
from flowprof.profiler.roofline.least_time import Roof
from flowprof.profiler.store import Recording, read_sql

GRAPHS_SQL = """
SELECT graph_id, phase, coalesce(tokens, 1) FROM graph JOIN graph_exec e USING (graph_id)
WHERE described AND e.level IN ('op', 'thread')
GROUP BY ALL ORDER BY sum(e.end_ns - e.start_ns) DESC, graph_id
"""
_ROWS = re.compile(r" · n=\d+$")
_PARTS: dict[str, Part] = {"runnable": "runnable", "fault": "fault"}  # every other state: blocked


@dataclass(slots=True)
class _Kinds:
    """Which group each node of each graph belongs to. `column` by graph_id: (nodes,), -1 for no node."""

    groups: list[Group]
    column: dict[int, Ints]
    work: dict[int, GraphWork]
    left_out: Mapping[str, int]  # graphs by phase
    growing: frozenset[Name]  # with the context


def read(recording: Recording) -> list[Steps]:
    """The steps of every phase that ran; phases by their time. Empty when no graph ran."""
    found = recording.columns(read_sql("diff_steps.sql"))
    if not len(found["exec_id"]):
        return []
    phases, which = np.unique(np.asarray(found["phase"], dtype=str), return_inverse=True)
    kinds = _kinds(recording)
    matrices = _matrices(recording, found, kinds)
    duration = np.asarray(found["dur_ns"], dtype=float)
    order = np.argsort(-np.bincount(which, duration), kind="stable")
    return [_steps(recording, str(phases[at]), which == at, found, kinds, matrices) for at in order]


def _kinds(recording: Recording) -> _Kinds:
    """Groups with their layer: one column of the matrix for each."""
    roof = Roof(recorded_ceilings(recording), 1, None, 0)
    groups: dict[Group, int] = {}
    column: dict[int, Ints] = {}
    works: dict[int, GraphWork] = {}
    graphs = {graph_id: (phase, tokens) for graph_id, phase, tokens in recording.rows(GRAPHS_SQL)}
    for graph_id, work in read_graphs(recording, dict.fromkeys(graphs, roof)):
        phase, tokens = graphs[graph_id]
        columns = np.full(max(work.nodes, default=-1) + 1, -1, np.int64)
        for node, one in work.nodes.items():
            group = Group("operator", phase, one.block, one.op, one.tensor, plain_shape(one, tokens), one.layer)
            columns[node] = groups.setdefault(group, len(groups))
        column[graph_id], works[graph_id] = columns, work
    left_out = Counter(phase for graph_id, (phase, _) in graphs.items() if graph_id not in works)
    return _Kinds(list(groups), column, works, left_out, growing(recording, works))


def plain_shape(work: Work, tokens: int) -> str:
    """A node's shape without the number of tokens that pass through."""
    text = _ROWS.sub("", work.shape)
    if text != work.shape or tokens <= 1:
        return text
    extents, _, rest = text.partition(" ")
    kept = [extent for at, extent in enumerate(extents.split("x")) if at == 0 or extent != str(tokens)]
    return " ".join(filter(None, ("x".join(kept), rest)))


def _matrices(recording: Recording, found: Mapping[str, np.ndarray], kinds: _Kinds) -> tuple[Floats, Ints]:
    """ns of every measured execution and group (k, g), and how many operators of each execution were seen (n,).

    Most executions are not measured while deep windows come and go: a row for each would be gigabytes of zeros.
    """
    exec_id = np.asarray(found["exec_id"], np.int64)
    by_id = np.argsort(exec_id, kind="stable")
    ids = exec_id[by_id]
    graph = np.asarray(found["graph_id"], np.int64)
    graphs = np.array(sorted(kinds.column), np.int64)
    sizes = np.array([len(kinds.column[one]) for one in graphs.tolist()], np.int64)
    begins = np.r_[0, np.cumsum(sizes)]
    flat = np.concatenate([kinds.column[one] for one in graphs.tolist()]) if len(graphs) else np.zeros(0, np.int64)
    width = len(kinds.groups)
    measured = np.asarray(found["measured"], bool)
    row = np.cumsum(measured) - 1
    ns = np.zeros(int(measured.sum()) * width)
    seen = np.zeros(len(exec_id), np.int64)
    if not width:
        return ns.reshape(int(measured.sum()), 0), seen
    for stretch in slices(recording):
        ops = recording.columns(read_sql("diff_operators.sql"), {"first": stretch["first"], "last": stretch["last"]})
        at = np.searchsorted(ids, ops["exec_id"])
        at[at == len(ids)] = 0
        step = by_id[at]
        place = np.searchsorted(graphs, graph[step])
        place[place == len(graphs)] = 0
        node = np.asarray(ops["node_index"], np.int64)
        known = measured[step] & (ids[at] == ops["exec_id"]) & (graphs[place] == graph[step])
        known &= (node >= 0) & (node < sizes[place])
        column = np.full(len(node), -1, np.int64)
        column[known] = flat[begins[place[known]] + node[known]]
        known = column >= 0
        cell = row[step[known]] * width + column[known]
        if len(cell):
            _add(ns, cell, np.asarray(ops["ns"])[known])
        seen += np.bincount(step[known], minlength=len(seen))
    return ns.reshape(-1, width), seen


def _add(total: Floats, cell: Ints, ns: Floats) -> None:
    first, last = int(cell.min()), int(cell.max()) + 1  # a slice's executions follow one another
    total[first:last] += np.bincount(cell - first, ns, last - first)


def _steps(
    recording: Recording,
    phase: str,
    mine: np.ndarray,
    found: Mapping[str, np.ndarray],
    kinds: _Kinds,
    matrices: tuple[Floats, Ints],
) -> Steps:
    cells, seen = matrices
    duration = np.asarray(found["dur_ns"], dtype=float)
    pauses = np.asarray(found["pause_ns"], dtype=float)[mine]
    tokens = np.asarray(found["tokens"], np.int64)
    start = np.asarray(found["start_ns"], np.int64)
    gap = np.ma.filled(np.ma.asarray(found["gap_ns"]).astype(float), np.nan)
    with_gaps = phase in ("decode", "mixed") and bool(np.mean(~np.isnan(gap[mine])) > 0.5)
    if with_gaps:
        mine = mine & ~np.isnan(gap)
    whole = duration + gap if with_gaps else duration
    operators = {graph: int((column >= 0).sum()) for graph, column in kinds.column.items()}
    full = np.array([operators.get(graph, -1) for graph in found["graph_id"].tolist()])
    measured = np.asarray(found["measured"], bool)
    chosen = mine & measured & (seen == full)
    cells = cells[chosen[measured]]
    used = [at for at, group in enumerate(kinds.groups) if group.phase == phase]
    folded: dict[Group, list[int]] = defaultdict(list)
    for at in used:
        one = kinds.groups[at]
        folded[Group(one.kind, one.phase, one.block, one.op, one.tensor, one.shape)].append(at)
    columns = [cells[:, members].sum(axis=1) for members in folded.values()]
    groups = list(folded)
    inside = sum(columns) if columns else np.zeros(int(chosen.sum()))
    groups.append(Group("unattributed", phase, "other", "", "", ""))
    columns.append(duration[chosen] - inside)
    if with_gaps:
        groups.append(Group("between", phase, "other", "", "", ""))
        columns.append(gap[chosen])
    facts = _facts(recording, phase, found["graph_id"][chosen], tokens[chosen], kinds, list(folded))
    facts += [GroupFacts(order=len(facts) + more) for more in range(len(groups) - len(facts))]
    return Steps(
        phase=phase,
        start_ns=start[chosen],
        tokens=tokens[chosen],
        groups=tuple(groups),
        ns=np.stack(columns, axis=1) if columns else np.zeros((int(chosen.sum()), 0)),
        facts=tuple(facts),
        layers={
            group: (tuple(kinds.groups[at].layer or 0 for at in members), cells[:, members])
            for group, members in folded.items()
            if len(members) > 1
        },
        all_start_ns=start[mine],
        all_tokens=tokens[mine],
        all_ns=whole[mine],
        place=np.flatnonzero(chosen[mine]),
        all_context=np.asarray(found["n_kv"], np.int64)[mine],
        all_cells=np.asarray(found["cells"], float).round().astype(np.int64)[mine],
        all_level=levels.numbered(found["level"])[mine],
        all_gap_ns=gap[mine] if with_gaps else np.zeros(0),
        pause_ns=pauses[pauses > 0],
        graphs_left_out=kinds.left_out.get(phase, 0),
    )


def _facts(
    recording: Recording, phase: str, graph: Ints, tokens: Ints, kinds: _Kinds, groups: list[Group]
) -> list[GroupFacts]:
    """FLOPs, bytes, calls and what was waited for, per token; groups in the order of `groups`."""
    total = float(tokens.sum()) or 1.0
    place = {group: at for at, group in enumerate(groups)}
    facts = [GroupFacts(calls=0.0, flops=0.0, bytes=0.0, order=-1) for _ in groups]
    runs = dict(zip(*(part.tolist() for part in np.unique(graph, return_counts=True)), strict=True))
    contexts: dict[int, list[tuple[float, int]]] = defaultdict(list)
    of_node: dict[Node, int] = {}
    for graph_id, executions in runs.items():
        for node, one in kinds.work[graph_id].nodes.items():
            found = kinds.groups[int(kinds.column[graph_id][node])]
            at = place[Group(found.kind, phase, found.block, found.op, found.tensor, found.shape)]
            of_node[graph_id, node] = at
            fact = facts[at]
            fact.grows = (found.block, found.op, found.tensor) in kinds.growing
            fact.order = node if fact.order < 0 else min(fact.order, node)
            fact.calls = (fact.calls or 0.0) + executions / total
            cost = one.cost
            if cost is None or cost.flops is None:
                fact.flops = None
            elif fact.flops is not None:
                fact.flops += cost.flops * executions / total
            if cost is None:
                fact.bytes = None
            elif fact.bytes is not None:
                fact.bytes += (cost.weight_bytes + cost.read_bytes + cost.write_bytes) * executions / total
            if one.context is not None:
                contexts[at].append((one.context, executions))
    for at, rows in contexts.items():
        facts[at].context = sum(rows_read * count for rows_read, count in rows) / sum(count for _, count in rows)
    _waits(recording, facts, of_node, total)
    return facts


def _waits(recording: Recording, facts: list[GroupFacts], of_node: Mapping[Node, int], tokens: float) -> None:
    """Fill in `parts`: time off the processor by its kind, and imbalance at barriers where thread windows tell.

    While one thread is away the others wait at the barrier, and the mean of their own work holds its part of that: what
    the absence explains of the imbalance is taken off, as in verdict_groups.py.
    """
    absent: dict[int, float] = defaultdict(float)  # ns per token
    if recording.meta().get("sched") == "yes":
        for fact in facts:
            fact.parts = {"runnable": 0.0, "blocked": 0.0, "fault": 0.0}
        for node, away in verdict_waits.away(recording).items():
            at, said = of_node.get(node), sum(away.causes.values())
            if at is None or not said:
                continue
            absent[at] += away.ns / tokens
            for words, ns in away.causes.items():
                part = _PARTS.get(verdict_waits.state(words), "blocked")
                facts[at].parts[part] += ns / said * away.ns / tokens
    barriers = verdict_waits.barriers(recording)
    counted: dict[int, list[float]] = defaultdict(list)
    threads: dict[int, int] = defaultdict(lambda: 1)
    for node, barrier in barriers.items():
        at = of_node.get(node)
        if at is not None:
            counted[at].append(barrier.imbalance_ns)
            threads[at] = max(threads[at], barrier.threads)
    for at, each in counted.items():
        imbalance = float(np.mean(each)) * (facts[at].calls or 0.0)
        facts[at].parts["barrier"] = max(0.0, imbalance - absent[at] * (1 - 1 / threads[at]))
