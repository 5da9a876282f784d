"""Where a program's iterations begin, from the order of its calls alone (numpy; pure).

An iteration begins wherever one kind of call comes, its mark, when the calls from one mark to the next are about as
many each time. Every kind of call is tried as a mark:

1. It comes MIN_MARKS times or more, and from its first to its last time there is half of the sequence or more.
2. It is regular: in REGULAR of its intervals the number of calls is within SAME of their median.
3. The shortest regular interval is taken. It may be a layer of a model, and the step all layers with what comes before
   and after them. So a longer one is taken in its place when more than LOOP of the calls are in irregular intervals of
   the shorter one, or intervals that are not of the most frequent number of calls take more than LOOP of all time
   beyond what the others take; and this is at most half as much with the longer one. A log line now and then takes
   less; a warm-up, up to the first regular interval, does not count.
4. Of marks that come equally often the one before which most time passes: iterations are cut where the program pauses.

The kind of a call is its name; names with arguments are tried, too, for an output layer differs from the others only in
its shape. Calls of different stretches of recording are in no interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.diff.steps.steps import Ints
from numpy.typing import NDArray

MIN_MARKS = 4
MAX_KINDS = 500  # tried, the most frequent ones
REGULAR = 0.75
SAME = 0.1
LOOP = 0.01
COVERED = 0.5  # of the sequence


@dataclass(frozen=True, slots=True)
class Iterations:
    """Calls `first` (n,) to `last` (n,), which is the next one's first; `alike` (n,): of the usual length."""

    first: Ints
    last: Ints
    alike: NDArray[np.bool_]
    calls: int  # in the usual one


@dataclass(frozen=True, slots=True)
class _Mark:
    places: Ints
    whole: NDArray[np.bool_]  # intervals within one stretch
    alike: NDArray[np.bool_]  # intervals
    irregular: float  # share of the calls, or of the time: see the module's text
    usual: float


def find(kinds: Sequence[Ints], stretch: Ints, start: Ints, end: Ints) -> Iterations | None:
    """None: nothing repeats. Arrays (n,) of the calls, by start: kinds, each their numbers, coarse to fine; ns."""
    marks = [mark for kind in kinds for places in _places(kind) if (mark := _mark(places, stretch, start)) is not None]
    gap = start - np.append(start[:1], end[:-1])
    chosen: _Mark | None = None
    for mark in sorted(marks, key=lambda one: (one.usual, -len(one.places))):
        if chosen is None or (chosen.irregular > LOOP and mark.irregular <= chosen.irregular / 2):
            chosen = mark
    if chosen is None:
        return None
    same = [
        one for one in marks
        if abs(one.usual - chosen.usual) <= SAME * chosen.usual
        and abs(len(one.places) - len(chosen.places)) <= max(1, SAME * len(chosen.places))
        and one.irregular <= chosen.irregular
    ]  # fmt: skip
    best = max(same, key=lambda one: (float(np.median(gap[one.places])), -int(one.places[0])))
    first = np.flatnonzero(best.whole)
    return Iterations(best.places[first], best.places[first + 1], best.alike[first], round(best.usual))


def _places(kind: Ints) -> list[Ints]:
    """Where each kind of call comes, of those that come often enough."""
    if not len(kind):
        return []
    order = np.argsort(kind, kind="stable")
    begins = np.r_[0, np.flatnonzero(np.diff(kind[order])) + 1]
    counts = np.diff(np.r_[begins, len(kind)])
    often = np.flatnonzero(counts >= MIN_MARKS)
    often = often[np.argsort(-counts[often], kind="stable")][:MAX_KINDS]
    return [order[begins[at] : begins[at] + counts[at]] for at in often.tolist()]


def _mark(places: Ints, stretch: Ints, start: Ints) -> _Mark | None:
    calls, ns = np.diff(places), np.diff(start[places])
    whole = stretch[places[1:]] == stretch[places[:-1]]
    if whole.sum() < MIN_MARKS - 1 or calls[whole].sum() < COVERED * len(stretch):
        return None
    usual = float(np.median(calls[whole]))
    alike = whole & (np.abs(calls - usual) <= SAME * usual)
    if alike.sum() < REGULAR * whole.sum():
        return None
    steady = whole & (np.arange(len(calls)) >= int(alike.argmax()))
    frequent = calls == np.bincount(calls[steady]).argmax()
    beyond = np.maximum(ns - np.median(ns[steady & frequent]), 0)[steady & ~frequent].sum() / max(ns[steady].sum(), 1)
    irregular = calls[steady & ~alike].sum() / calls[steady].sum()
    return _Mark(places, whole, alike, float(max(irregular, beyond)), usual)
