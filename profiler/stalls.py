"""How long operators stood still because a thread of the pool was off the processor (pure, numpy).

Operators of a pool follow one another on the first thread's clock, each ended by a barrier: while one thread is away no
other gets past it, so a stretch off the processor costs the operators that it overlaps on that clock. What an operator
loses is the most that any one thread was away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def overlaps(
    start_ns: Integers, end_ns: Integers, away_start_ns: Integers, away_end_ns: Integers
) -> tuple[Integers, Integers, Integers]:
    """Which operator meets which stretch, and for how long: (operator, stretch, ns), ns > 0.

    Operators are those of one pool: sorted by start, none overlaps the next.
    """
    first = np.searchsorted(end_ns, away_start_ns, side="right")
    last = np.searchsorted(start_ns, away_end_ns, side="left")
    count = np.maximum(last - first, 0)
    stretch = np.repeat(np.arange(len(count)), count)
    operator = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count - first, count)
    ns = np.minimum(end_ns[operator], away_end_ns[stretch]) - np.maximum(start_ns[operator], away_start_ns[stretch])
    kept = ns > 0
    return operator[kept], stretch[kept], ns[kept]


def lost(operator: Integers, thread: Integers, ns: Integers) -> tuple[Integers, Integers]:
    """Operators that lost time, and how much: the most of any thread, each thread's stretches added."""
    if not len(operator):
        return operator, ns
    order = np.lexsort((thread, operator))
    operator, thread, ns = operator[order], thread[order], ns[order]
    begins = np.flatnonzero(np.r_[True, (np.diff(operator) != 0) | (np.diff(thread) != 0)])
    per_thread, owner = np.add.reduceat(ns, begins), operator[begins]
    begins = np.flatnonzero(np.r_[True, np.diff(owner) != 0])
    return owner[begins], np.maximum.reduceat(per_thread, begins)
