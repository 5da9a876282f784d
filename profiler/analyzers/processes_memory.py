"""Memory bandwidth that one process takes from another. Part of processes.py.

Compared are products that read LEAST_BYTES or more of weights, which DRAM serves: what all recorded engines touch
together is more than the last-level cache holds. A product is alone while no other recorded process runs a graph, and
beside one while that (and no third one) does all along. Calls in which a thread of the pool was off the processor are
left out: who starves it of processors is told elsewhere. Products of the same process, phase, layer, shape and probe
level are each other's like (processes_beside.py).

Slower is not yet starved: two processes also share caches, a power budget, a host. So what both move together, the
counted bytes over the measured time (of the products beside the other; of the other's graphs meanwhile), is held
against the DRAM ceiling for both's threads. Without a ceiling nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.analyzers import verdict_waits
from flowprof.profiler.analyzers.contract import recorded_ceilings
from flowprof.profiler.analyzers.processes_beside import BY_ITS_SIDE, Bools, Floats, Ints, compare
from flowprof.profiler.analyzers.slices import slices
from flowprof.profiler.analyzers.verdict_work import MeasuredGraph, measured_graphs
from flowprof.profiler.machine.ceilings import Ceilings
from flowprof.profiler.roofline.least_time import describe, last_level, served
from flowprof.profiler.sections.processes import Beside, Starved
from flowprof.profiler.store import Recording, read_sql

LEAST_BYTES = 1 << 20
PHASES = ("decode", "prefill", "mixed", "other")
NO_ENGINES = "no operators of two engines (record with --levels token,op,sched, and --full)"
NO_CEILING = "no ceilings (flowprof calibrate, then record again, or report --ceilings FILE)"
IN_CACHE = "what the engines read fits into the last-level cache"
MODEL_SQL = "SELECT pid, name FROM model WHERE name IS NOT NULL"
NO_PRODUCTS = "no product reads as much as 1 MiB of weights"
NO_SIZE = "the size of the last-level cache was not recorded"

Node = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A product and its likes."""

    number: int
    phase: int  # in PHASES
    size: float  # bytes of a call
    tokens: float  # of an execution of its graph


@dataclass(slots=True)
class _Calls:
    """Products of one process, a row each: an array per column."""

    parts: list[dict[str, Any]] = field(default_factory=list)

    def columns(self) -> dict[str, Any]:
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}


def starved(recording: Recording) -> tuple[list[Starved], list[str]]:
    """Rows of who is slower beside whom, and why more is not told."""
    ceilings = recorded_ceilings(recording)
    if not any(item.what == "dram_read" for item in ceilings.items):
        return [], [NO_CEILING]
    caches = last_level(recording.meta())
    graphs, _ = measured_graphs(recording, ceilings, verdict_waits.barriers(recording), caches)
    owner = dict(recording.rows("SELECT graph_id, pid FROM graph"))
    known = [graph for graph in graphs if graph.work is not None and graph.work.total is not None]
    model = dict(recording.rows(MODEL_SQL))
    touched: dict[str, int] = {}  # by file: what two processes have mapped is there once
    threads: dict[int, int] = {}
    for graph in known:
        assert graph.work is not None
        pid = owner[graph.graph_id]
        name = model.get(pid, str(pid))
        touched[name] = max(touched.get(name, 0), graph.work.roof.working_set)
        threads[pid] = max(threads.get(pid, 0), graph.work.roof.threads)
    if len(threads) < 2:
        return [], [NO_ENGINES]
    size = caches.of(sum(threads.values()))
    place = served(sum(touched.values()), size)
    if place != "DRAM":
        return [], [NO_SIZE if size is None else IN_CACHE if place == "cache" else f"whether {IN_CACHE} is open"]
    kinds = _kinds(known, owner)
    if not kinds:
        return [], [NO_PRODUCTS]
    calls = _products(recording, kinds)
    runs = _runs(recording)
    moved = {graph.graph_id: _bytes(graph) for graph in known}
    rows, why = [], []
    for pid in sorted(calls):
        products = calls[pid].columns()
        for by in sorted(threads):
            if by != pid:
                found = _pair(products, runs, moved, pid, by)
                if isinstance(found, str):
                    why.append(f"{pid} beside {by}: {found}")
                else:
                    rows += [_with_ceiling(row, ceilings, threads[pid] + threads[by]) for row in found]
    return rows, why


def _bytes(graph: MeasuredGraph) -> float:
    """What one execution reads from where its weights are."""
    assert graph.work is not None and graph.work.total is not None
    return float(graph.work.total.weight_bytes + graph.work.total.kv_bytes)


def _kinds(graphs: Sequence[MeasuredGraph], owner: Mapping[int, int]) -> dict[Node, _Kind]:
    numbers: dict[tuple[object, ...], int] = {}
    found = {}
    for graph in graphs:
        assert graph.work is not None
        phase = PHASES.index(graph.phase) if graph.phase in PHASES else len(PHASES) - 1
        for node, work in graph.work.nodes.items():
            if work.cost is not None and work.cost.weight_bytes >= LEAST_BYTES:
                key = (owner[graph.graph_id], graph.phase, work.op, work.layer, work.tensor, work.shape)
                size = work.cost.weight_bytes + work.cost.read_bytes + work.cost.write_bytes
                found[graph.graph_id, node] = _Kind(
                    numbers.setdefault(key, len(numbers)), phase, float(size), max(1.0, graph.tokens / graph.executions)
                )
    return found


def _products(recording: Recording, kinds: Mapping[Node, _Kind]) -> dict[int, _Calls]:
    """The products by process, without calls in which a thread of their pool was off the processor."""
    nodes = np.array(sorted((graph << 32) | node for graph, node in kinds), np.int64)
    kind = [kinds[int(key >> 32), int(key & 0xFFFFFFFF)] for key in nodes.tolist()]
    number, phase, size, tokens = (
        np.array(column) for column in zip(*((k.number, k.phase, k.size, k.tokens) for k in kind), strict=True)
    )
    found: dict[int, _Calls] = {}
    for stretch in slices(recording):
        which = {"first": stretch["first"], "last": stretch["last"]}
        rows = recording.columns(read_sql("processes_products.sql"), which)
        node = (rows["graph_id"].astype(np.int64) << 32) | rows["node_index"].astype(np.int64)
        at = np.minimum(np.searchsorted(nodes, node), len(nodes) - 1)
        chosen = nodes[at] == node
        away = recording.columns(
            read_sql("verdict_away.sql"), {"from_ns": stretch["from_ns"], "to_ns": stretch["to_ns"]}
        )
        for pid in np.unique(rows["pid"][chosen]).tolist():
            mine = chosen & (rows["pid"] == pid)
            start, end = rows["start_ns"][mine].astype(np.int64), rows["end_ns"][mine].astype(np.int64)
            theirs = away["pid"] == pid
            off = intervals.covered(
                start, end, away["start_ns"][theirs].astype(np.int64), away["end_ns"][theirs].astype(np.int64)
            )
            on = off == 0
            where = at[mine]
            columns = {
                "start_ns": start, "end_ns": end, "exec_id": rows["exec_id"][mine].astype(np.int64),
                "key": 2 * number[where] + rows["deep"][mine].astype(np.int64), "phase": phase[where],
                "size": size[where], "tokens": tokens[where],
            }  # fmt: skip
            found.setdefault(pid, _Calls()).parts.append({name: column[on] for name, column in columns.items()})
    return found


def _runs(recording: Recording) -> dict[int, dict[str, Any]]:
    """Executions of graphs by process."""
    rows = recording.columns(read_sql("processes_graphs.sql"))
    return {
        pid: {name: column[rows["pid"] == pid].astype(np.int64) for name, column in rows.items()}
        for pid in np.unique(rows["pid"]).tolist()
    }


def _pair(
    calls: Mapping[str, Any], runs: Mapping[int, Mapping[str, Any]], moved: Mapping[int, float], pid: int, by: int
) -> list[Starved] | str:
    start, end = calls["start_ns"], calls["end_ns"]
    third = [runs[other] for other in runs if other not in (pid, by)]
    own = intervals.covered(start, end, runs[by]["start_ns"], runs[by]["end_ns"])
    others = np.zeros(len(start), np.int64)
    for one in third:
        others += intervals.covered(start, end, one["start_ns"], one["end_ns"])
    alone: Bools = (own == 0) & (others == 0)
    beside: Bools = (own >= BY_ITS_SIDE * (end - start)) & (others == 0)
    rows, why = [], ""
    for phase in np.unique(calls["phase"]).tolist():
        mine = (calls["phase"] == phase) & (alone | beside)
        took: Floats = (end - start)[mine].astype(float)
        found = compare(calls["key"][mine], calls["exec_id"][mine], start[mine], took, beside[mine])
        if isinstance(found, str):
            why = why or f"{PHASES[phase]}: {found}"
            continue
        near = mine & beside
        rows.append(_row(found, calls, near, _rate(runs[by], moved, start[near], end[near]), pid, by, PHASES[phase]))
    return rows or why or "no product was seen"


def _rate(theirs: Mapping[str, Any], moved: Mapping[int, float], start: Ints, end: Ints) -> float | None:
    """Bytes/s of the other's graphs that ran beside these calls; None where nothing is known of what they move."""
    met = intervals.covered(theirs["start_ns"], theirs["end_ns"], *intervals.union(start, end)) > 0
    known = met & np.isin(theirs["graph_id"], np.array(list(moved), np.int64))
    ns = int((theirs["end_ns"] - theirs["start_ns"])[known].sum())
    return sum(moved[int(graph)] for graph in theirs["graph_id"][known]) / ns * 1e9 if ns else None


def _row(
    found: Beside, calls: Mapping[str, Any], near: Bools, others: float | None, pid: int, by: int, phase: str
) -> Starved:
    took = int((calls["end_ns"] - calls["start_ns"])[near].sum())
    share = 1 - 1 / found.ratio
    own = float(calls["size"][near].sum()) / took * 1e9 if took else 0.0
    return Starved(
        pid, by, "memory", max(0, round(took * share)), max(0.0, share), int(near.sum()), slower=found, phase=phase,
        lost_ns_per_token=_per_token(calls, near, share), moved=own + others if others is not None else None,
        evidence=(f"{own / 1e9:.3g} GB/s in its products" +
                  (f", {others / 1e9:.3g} GB/s in the other's graphs" if others is not None else ""),),
    )  # fmt: skip


def _per_token(calls: Mapping[str, Any], near: Bools, share: float) -> float:
    """What the products of one token lose: an execution has each kind of one probe level once."""
    keys, place = np.unique(calls["key"][near], return_inverse=True)
    took = (calls["end_ns"] - calls["start_ns"])[near]
    mean = np.bincount(place, took) / np.bincount(place, calls["tokens"][near])
    levels = [mean[keys % 2 == deep].sum() for deep in (0, 1)]
    return float(max(levels) * share)


def _with_ceiling(row: Starved, ceilings: Ceilings, threads: int) -> Starved:
    ceiling = ceilings.get("dram_read", threads)
    assert ceiling is not None
    return replace(
        row, ceiling=ceiling.value, evidence=(*row.evidence, f"the ceiling: {describe(ceiling)}, {ceiling.source}")
    )
