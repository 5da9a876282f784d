"""Whether the same work takes longer while another process works (numpy; pure). Part of processes.py.

Work is compared with its like: calls with the same key (an operator of the same node, shape, phase and probe level; a
wait for the same launches). A call's time is put over the median of its key's calls alone. What a unit (an execution of
a graph, a round of launches) took on each side is added up, and the ratio is (time / expected) beside over that alone.

Neighbouring units share a clock frequency and a noisy host. So units are cut into BLOCKS of neighbours on each side,
and blocks are what is averaged: the ratio is that of geometric means, its interval Student's t on the blocks'
logarithms (95 %, with the degrees of freedom of one side, which is on the safe side of Welch's). One change from alone
to beside would not tell the other process from anything else that happened then: it must have begun or ceased CHANGES
times.
"""

from __future__ import annotations

import math

import numpy as np
from flowprof.profiler.analyzers.overhead import student_t
from flowprof.profiler.sections.processes import Beside
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BLOCKS = 8  # of each side
UNITS = 2 * BLOCKS  # of each side, at least
CALLS = 3  # of a key alone, at least: its median is what is expected
CHANGES = 2
BY_ITS_SIDE = 0.9  # of a call's time covered by the other's work


def compare(key: Ints, unit: Ints, at_ns: Ints, ns: Floats, beside: Bools) -> Beside | str:
    """How much longer it takes, or why that cannot be said. All arrays: one call each; `at_ns` orders units in time.

    Calls that took no time are left out.
    """
    some = ns > 0
    key, unit, at_ns, ns, beside = key[some], unit[some], at_ns[some], ns[some], beside[some]
    if why := _too_few("it worked", unit, beside):
        return why
    keys, place = np.unique(key, return_inverse=True)
    alone = np.bincount(place[~beside], minlength=len(keys)) >= CALLS
    kept = (alone & (np.bincount(place[beside], minlength=len(keys)) > 0))[place]
    place, unit, at_ns, ns, beside = place[kept], unit[kept], at_ns[kept], ns[kept], beside[kept]
    if why := _too_few("the same work was done", unit, beside):
        return why
    expected = _medians(place[~beside], ns[~beside], len(keys))[place]
    sides = [_blocks(unit[mine], at_ns[mine], ns[mine], expected[mine]) for mine in (~beside, beside)]
    order = np.argsort(at_ns, kind="stable")
    changes = int((np.diff(beside[order].astype(np.int8)) != 0).sum())
    if changes < CHANGES:
        return "the other began or ceased once only: what changed then may have other causes"
    logs = [np.log(took / thought) for took, thought in sides]
    middle = float(logs[1].mean() - logs[0].mean())
    error = math.sqrt(sum(float(one.var(ddof=1)) / BLOCKS for one in logs))
    low, ratio, high = (math.exp(middle + sign * student_t(BLOCKS - 1) * error) for sign in (-1, 0, 1))
    alone_units, beside_units = (len(np.unique(unit[beside == side])) for side in (False, True))
    return Beside(ratio, low, high, alone_units, beside_units, changes)


def _too_few(what: str, unit: Ints, beside: Bools) -> str:
    for side, words in ((True, "beside it"), (False, "alone")):
        count = len(np.unique(unit[beside == side]))
        if count < UNITS:
            return f"{what} {count} times {words}, {UNITS} are needed: record longer, or with --full"
    return ""


def _medians(place: Ints, ns: Floats, keys: int) -> Floats:
    """Of each key's times; 0 of keys without any."""
    order = np.lexsort((ns, place))
    count = np.bincount(place, minlength=keys)
    first = np.cumsum(count) - count
    found = np.zeros(keys)
    some = count > 0
    ordered = ns[order]
    found[some] = (ordered[(first + (count - 1) // 2)[some]] + ordered[(first + count // 2)[some]]) / 2
    return found


def _blocks(unit: Ints, at_ns: Ints, ns: Floats, expected: Floats) -> tuple[Floats, Floats]:
    """Time and expected time of BLOCKS runs of neighbouring units."""
    _, first, place = np.unique(unit, return_index=True, return_inverse=True)
    in_time = np.argsort(np.argsort(at_ns[first], kind="stable"), kind="stable")
    block = in_time[place] * BLOCKS // len(first)
    return np.bincount(block, ns, BLOCKS).astype(float), np.bincount(block, expected, BLOCKS).astype(float)
