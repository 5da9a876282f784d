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


def both(start: Ints, end: Ints, other: Ints, until: Ints) -> tuple[Ints, Ints]:
    """Stretches that lie in the union of the ones and in that of the others, in order."""
    (start, end), (other, until) = union(start, end), union(other, until)
    first = np.searchsorted(until, start, "right")
    count = np.maximum(np.searchsorted(other, end, "left") - first, 0)
    one = np.repeat(np.arange(len(count)), count)
    two = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count - first, count)
    return np.maximum(start[one], other[two]), np.minimum(end[one], until[two])


def common(start: Ints, end: Ints, other: Ints, until: Ints) -> int:
    """ns in both unions."""
    return length(*both(start, end, other, until))


def without(start: Ints, end: Ints, other: Ints, until: Ints) -> tuple[Ints, Ints]:
    """Of the union of the ones what is not in that of the others, in order."""
    if not len(start):
        return start, end
    return both(start, end, *gaps(other, until, int(start.min()), int(end.max())))


def covered(start: Ints, end: Ints, other: Ints, until: Ints) -> Ints:
    """Of each of the ones, how many ns lie in the union of the others."""
    begins, ends = union(other, until)
    if not len(begins):
        return np.zeros(len(start), np.int64)
    so_far = np.concatenate(([0], np.cumsum(ends - begins)))

    def before(at: Ints) -> Ints:
        number = np.searchsorted(begins, at, "right")
        last = np.maximum(number - 1, 0)
        return so_far[number] - np.where(number > 0, np.maximum(ends[last] - at, 0), 0)

    found: Ints = before(end) - before(start)
    return found


def gaps(start: Ints, end: Ints, first: int, last: int) -> tuple[Ints, Ints]:
    """Stretches from `first` to `last` that none covers, in order."""
    begins, ends = union(np.clip(start, first, last), np.clip(end, first, last))
    since, until = np.append(np.int64(first), ends), np.append(begins, np.int64(last))
    kept = until > since
    return since[kept], until[kept]


def several(start: Ints, end: Ints) -> int:
    """ns in which two or more run at once; stretches of one lane do not overlap."""
    at, change = np.concatenate((start, end)), np.repeat((1, -1), len(start))
    order = np.lexsort((change, at))
    running = np.cumsum(change[order])[:-1]
    return int(np.diff(at[order])[running >= 2].sum())
