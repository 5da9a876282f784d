"""What every thread did in the operators of a group: own work, barrier, off the processor. Part of verdicts.py.

From graph executions at thread level, as the threads' time in all (absence.py). The slowest thread is the one that took
longest, on the processor or off it, to come to the barriers: the others wait for it. The imbalance is how much later
than the mean the last one came, node by node, so that threads that are late in turns do not make up for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.analyzers.absence import PHASES_SQL
from flowprof.profiler.analyzers.thread_times import SUMS, Integers, added, thread_times
from flowprof.profiler.analyzers.verdict_waits import Node
from flowprof.profiler.sections.verdicts import OperatorThread
from flowprof.profiler.store import Recording

ALONE = 0.5  # of the imbalance that one thread's own lateness explains: it is the slowest, and not all in turns
_PLACE = ("group", "pid", "driver_tid", "ith")


@dataclass(frozen=True, slots=True)
class GroupThreads:
    """The threads of one group; none without thread windows."""

    threads: tuple[OperatorThread, ...] = ()
    slowest: OperatorThread | None = None  # None: there is one thread, or all came alike late in turns
    imbalance_ns: int | None = None  # over the measured calls


def group_threads(recording: Recording, groups: Sequence[Sequence[Node]], scheduler: bool) -> list[GroupThreads]:
    """By the nodes of each group. scheduler: it was recorded, so what threads were off the processor for is known."""
    rows = _rows(recording, groups)
    excess = _excess(rows, len(groups))
    sums = added(rows, _PLACE, SUMS)
    found: list[list[OperatorThread]] = [[] for _ in groups]
    late: list[dict[OperatorThread, int]] = [{} for _ in groups]
    for values in zip(*(column.tolist() for column in sums.values()), strict=True):
        row = dict(zip(sums, values, strict=True))
        one = _thread(row, scheduler)
        found[row["group"]].append(one)
        late[row["group"]][one] = row["barrier_compute_ns"]
    return [
        GroupThreads(tuple(threads), _slowest(times, ns), ns) if threads else GroupThreads()
        for threads, times, ns in zip(found, late, excess, strict=True)
    ]


def _rows(recording: Recording, groups: Sequence[Sequence[Node]]) -> dict[str, Integers]:
    """A row per group, node and place in a pool."""
    rows = thread_times(recording).nodes
    pids = {graph: pid for graph, _, pid in recording.rows(PHASES_SQL)}
    nodes = np.array([node for group in groups for node in group], np.int64).reshape(-1, 2)
    number = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    known = _code(nodes[:, 0], nodes[:, 1])
    order = np.argsort(known)
    known, number = known[order], number[order]
    code = _code(rows["graph_id"], rows["node_index"])
    place = np.searchsorted(known, code)
    place[place == len(known)] = 0
    chosen = known[place] == code if len(known) else np.zeros(len(code), np.bool_)
    picked = {name: column[chosen] for name, column in rows.items()}
    pid = np.array([pids[graph] for graph in picked["graph_id"].tolist()], np.int64)
    return {"group": number[place[chosen]] if len(known) else pid, "pid": pid, **picked}


def _code(graph: Integers, node: Integers) -> Integers:
    """Of a node that ran; -1 for what comes before a graph's first one."""
    return np.where(node < 0, -1, (graph << 32) | node)


def _excess(rows: dict[str, Integers], groups: int) -> list[int]:
    """By group: how much later than the mean the last thread of each node's pool came."""
    total = np.zeros(groups)
    if len(rows["ith"]):
        keys = [rows[name] for name in ("driver_tid", "node_index", "graph_id")]
        order = np.lexsort(keys)
        begins = np.flatnonzero(np.r_[True, np.logical_or.reduce([np.diff(key[order]) != 0 for key in keys])])
        late = rows["barrier_compute_ns"][order]
        count = np.diff(np.r_[begins, len(late)])
        excess = np.maximum.reduceat(late, begins) - np.add.reduceat(late, begins) / count
        np.add.at(total, rows["group"][order][begins], excess)
    return [round(ns) for ns in total.tolist()]


def _slowest(late: dict[OperatorThread, int], imbalance_ns: int) -> OperatorThread | None:
    """Of the pool that it holds up most."""
    pools: dict[int, list[int]] = {}
    for one, ns in late.items():
        pools.setdefault(one.driver_tid, []).append(ns)
    mean = {driver: sum(times) / len(times) for driver, times in pools.items()}
    lead = {one: ns - mean[one.driver_tid] for one, ns in late.items()}
    first = max(lead, key=lambda one: lead[one])
    return first if imbalance_ns and lead[first] >= ALONE * imbalance_ns else None


def _thread(row: dict[str, int], scheduler: bool) -> OperatorThread:
    asleep, off_at_barrier = row["barrier_blocked_ns"], row["off_at_barrier_ns"]
    return OperatorThread(
        pid=row["pid"],
        driver_tid=row["driver_tid"],
        thread=row["ith"],
        wall_ns=row["compute_ns"] + row["wait_ns"],
        work_ns=row["compute_ns"] - row["off_at_work_ns"],
        barrier_spin_ns=row["wait_ns"] - off_at_barrier,
        barrier_blocked_ns=asleep if scheduler else None,
        runnable_ns=row["runnable_ns"] if scheduler else None,
        blocked_ns=row["blocked_ns"] if scheduler else None,
        fault_ns=row["fault_ns"] if scheduler else None,
    )
