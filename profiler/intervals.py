"""Stretches of time as arrays: their union, and how long it is. Starts and ends are int64 ns of one length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def union(start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Stretches that neither overlap nor touch, in order, which cover the same time."""
    if not len(start):
        return start, end
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    reached = np.maximum.accumulate(end)
    first = np.concatenate(([True], start[1:] > reached[:-1]))
    last = np.concatenate((first[1:], [True]))
    return start[first], reached[last]


def length(start: Ints, end: Ints) -> int:
    """ns that stretches cover, overlaps counted once."""
    begins, ends = union(start, end)
    return int((ends - begins).sum())
