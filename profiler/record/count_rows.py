"""Events with an operator's counters → rows of op_counter: added up by graph node, thread and level. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# of perf events, software first
KINDS = ("page_faults", "cycles", "instructions", "llc_misses", "llc_prefetches", "stalled_cycles")
NAMES = ("task_clock_ns", "context_switches", *KINDS)  # the figures of an event, in order (counters.bpf.c)


def count_rows(
    events: NDArray[np.void], op: NDArray[np.int64], op_exec: Mapping[str, Any], graph_exec: Mapping[str, Any]
) -> dict[str, NDArray[np.generic]]:
    """Columns of op_counter. events: kind COUNTS; op: of each the row of `op_exec` that it belongs to, -1 none.

    An operator may have several events (one per barrier in it): they add up to one call.
    """
    events, op = events[op >= 0], op[op >= 0]
    if not len(op):
        return {}
    execution = np.asarray(op_exec["exec_id"])[op] - np.asarray(graph_exec["exec_id"])[0]  # they are numbered in turn
    levels, level = np.unique(np.asarray(graph_exec["level"], dtype="U8")[execution], return_inverse=True)
    where = np.stack(
        [
            np.asarray(graph_exec["graph_id"])[execution].astype(np.int64),
            np.asarray(op_exec["node_index"])[op].astype(np.int64),
            np.asarray(op_exec["ith"])[op].astype(np.int64),
            level.astype(np.int64),
        ],
        axis=1,
    )
    rows, row = np.unique(where, axis=0, return_inverse=True)
    row = row.ravel()
    figures = np.stack([events[column] for column in "abcd"], axis=1).view(np.uint32)  # (n, 8), as NAMES
    calls = np.bincount(row[np.unique(op, return_index=True)[1]], minlength=len(rows))
    columns: dict[str, NDArray[np.generic]] = {
        "graph_id": rows[:, 0].astype(np.int32), "node_index": rows[:, 1].astype(np.int32),
        "ith": rows[:, 2].astype(np.int16), "level": levels[rows[:, 3]].astype(object), "calls": calls,
    }  # fmt: skip
    for at, name in enumerate(NAMES):  # sums of 32-bit figures of one batch: exact in a double
        columns[name] = np.bincount(row, figures[:, at], minlength=len(rows)).astype(np.int64)
    return columns
