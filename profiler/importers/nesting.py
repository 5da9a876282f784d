"""Which operator is around which call, and how deep: from times alone, for the slices of a thread need not nest.

An operator is around a call when it begins no later and ends no sooner, on the same thread; the innermost is the
parent. Slices that only overlap are around nothing of each other. All in bulk: "nearest to the left that ends no
sooner" by pointer jumping, which takes about log(n) rounds. After MAX_ROUNDS, which takes slices that overlap in long
stairs, what is left has no parent.
"""

from __future__ import annotations

import numpy as np
from flowprof.profiler.importers.trace import Ints
from numpy.typing import NDArray

NONE = -1
MAX_ROUNDS = 500


def parents(thread: Ints, start_ns: Ints, end_ns: Ints, operator: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Row of each row's parent (NONE: none) and its depth; only rows that are an `operator` can be parents.

    thread: any number that tells threads apart. Arrays of one length. At equal times the operator is around what is no
    operator, and of two operators the one that comes first.
    """
    rows = len(start_ns)
    # By thread, then by start; what encloses comes before what it encloses.
    order = np.lexsort((~operator, -end_ns, start_ns, thread))  # stable
    end, line, can = end_ns[order], thread[order], operator[order]
    place = np.arange(rows)
    around = np.maximum.accumulate(np.where(can, place, NONE))  # the last operator up to here
    around = np.where(can, np.concatenate(([NONE], around[:-1]))[:rows] if rows else around, around)
    known = np.flatnonzero(around >= 0)
    around[known[line[around[known]] != line[known]]] = NONE
    short = known[around[known] >= 0]
    for _ in range(MAX_ROUNDS):
        short = short[end[around[short]] < end[short]]
        if not len(short):
            break
        around[short] = around[around[short]]
        short = short[around[short] >= 0]
    else:
        around[short] = NONE
    depth = (around >= 0).astype(np.int64)
    above = around.copy()
    while len(deeper := np.flatnonzero(above >= 0)):  # ancestors, doubling the step
        depth[deeper] += depth[above[deeper]]
        above[deeper] = above[above[deeper]]
    parent = np.full(rows, NONE, np.int64)
    deep = np.zeros(rows, np.int64)
    parent[order] = np.where(around >= 0, order[around], NONE)
    deep[order] = depth
    return parent, deep
