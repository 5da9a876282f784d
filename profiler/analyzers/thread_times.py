"""Where pool threads' time went in graph executions at thread level: in all, and operator by operator.

For absence.py, threads.py and verdict_threads.py. One pass over the operators, slice by slice, for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.analyzers.slices import slices
from flowprof.profiler.store import Recording, read_sql
from numpy.typing import NDArray

Integers = NDArray[np.int64]
PLACE = ("graph_id", "driver_tid", "ith")
KEYS = (*PLACE, "node_index", "tid")
SUMS = (
    "calls", "wall_ns", "compute_ns", "wait_ns", "barrier_calls", "barrier_compute_ns", "barrier_wait_ns",
    "off_at_work_ns", "off_at_barrier_ns", "barrier_blocked_ns", "runnable_ns", "blocked_ns", "fault_ns", "stopped_ns",
)  # fmt: skip
MANY = 100_000  # rows are added up when there are so many, and twice as many as after the last time


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """Columns of wait_operators.sql, a row each per graph and thread, and per graph, node and place in the pool."""

    threads: dict[str, Integers]
    nodes: dict[str, Integers]


@once
def thread_times(recording: Recording) -> ThreadTimes:
    """Both empty without thread windows."""
    sql = read_sql("wait_operators.sql")
    found = [{name: np.zeros(0, np.int64) for name in (*KEYS, *SUMS)}]
    for stretch in slices(recording):
        more = recording.columns(sql, stretch)
        found.append({name: _plain(more[name]) for name in found[0]})
        if sum(len(rows["tid"]) for rows in found[1:]) > max(MANY, len(found[0]["tid"])):
            found = [_together(found)]
    rows = _together(found)
    return ThreadTimes(added(rows, (*PLACE, "tid"), SUMS), added(rows, (*PLACE, "node_index"), SUMS))


def _together(parts: Sequence[Mapping[str, Integers]]) -> dict[str, Integers]:
    return added({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, KEYS, SUMS)


def _plain(column: np.ndarray) -> Integers:
    """NULL is nothing."""
    return np.ma.filled(column, 0).astype(np.int64)


def added(rows: Mapping[str, Integers], by: Sequence[str], sums: Sequence[str]) -> dict[str, Integers]:
    """Rows with equal keys `by` added up, in order of the keys."""
    order = np.lexsort([rows[name] for name in reversed(by)])
    if not len(order):
        return {name: rows[name] for name in (*by, *sums)}
    keys = {name: rows[name][order] for name in by}
    changes = np.logical_or.reduce([np.diff(column) != 0 for column in keys.values()])
    begins = np.flatnonzero(np.r_[True, changes])
    return {name: column[begins] for name, column in keys.items()} | {
        name: np.add.reduceat(rows[name][order], begins) for name in sums
    }
