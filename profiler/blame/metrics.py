"""Per resource, and per resource and task: waiting, hold, utilisation (#USE / #ACQUIRE), frequency, what is held.

Definitions: gigiProfiler, arXiv 2507.06452.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler.blame.events import ACQUIRE, RELEASE, USE, WAIT, Ints, Small
from flowprof.profiler.blame.pairing import OPEN
from flowprof.profiler.blame.study import Study
from flowprof.profiler.blame.waits import OPEN as STILL_WAITING
from numpy.typing import NDArray

MAX_GROUPS = 20_000_000  # resources × actors


@dataclass(frozen=True, slots=True)
class Totals:
    """One row per group that made an event. group: resource × number of actors + actor."""

    group: Ints
    waits: Ints
    acquires: Ints
    uses: Ints
    releases: Ints
    waiting_ns: Ints
    longest_ns: Ints
    open_waits: Ints
    hold_ns: Ints
    open_holds: Ints


def totals(study: Study, by_actor: bool) -> Totals:
    """By resource and actor, or by resource alone. Without rows by actor where there are too many of them."""
    events, of = study.events, study.events.resource
    many = len(events.actors) if by_actor else 1
    size = len(events.resources) * many
    if size > MAX_GROUPS or not len(events.at_ns):
        size = 0

    def group(place: Small, actor: Small) -> Ints:
        found: Ints = of[place].astype(np.int64) * many + (actor if by_actor else 0)
        return found

    if not size:
        empty = np.empty(0, np.int64)
        return Totals(empty, empty, empty, empty, empty, empty, empty, empty, empty, empty)
    each = group(events.place, events.actor)
    waited, held = group(study.waits.place, study.waits.actor), group(study.held.place, study.held.actor)

    def counted(groups: Ints, weights: NDArray[np.int64] | None = None) -> Ints:
        return np.rint(np.bincount(groups, weights, minlength=size)).astype(np.int64)

    longest = np.zeros(size, np.int64)
    np.maximum.at(longest, waited, study.waits.ns)
    columns = [
        counted(each[events.kind == WAIT]), counted(each[events.kind == ACQUIRE]), counted(each[events.kind == USE]),
        counted(each[events.kind == RELEASE]), counted(waited, study.waits.ns), longest,
        counted(waited[study.waits.how == STILL_WAITING]), counted(held, study.held.end_ns - study.held.start_ns),
        counted(held[study.held.how == OPEN]),
    ]  # fmt: skip
    there = np.flatnonzero(sum(columns))
    return Totals(there, *(column[there] for column in columns))


def gap(study: Study, resource: int) -> tuple[Ints, Ints]:
    """gap(t) of a resource: (moments, units acquired less units released by then), all its places together.

    From the holds; from the bare events where units are not told and events are missing: acquires and releases that
    are lost evenly cancel out, holds that are never seen to end do not.
    """
    events, held = study.events, study.held
    mine = np.flatnonzero(events.resource[events.place] == resource)
    steps = events.kind[mine] == ACQUIRE, events.kind[mine] == RELEASE
    if study.is_lossy(resource) and events.has_unit[mine][steps[0]].mean() < 0.5:
        rows = mine[steps[0] | steps[1]]
        at = events.at_ns[rows]
        units = np.where(events.kind[rows] == ACQUIRE, events.units[rows], -events.units[rows])
    else:
        own = np.flatnonzero(events.resource[held.place] == resource)
        ended = own[held.how[own] != OPEN]
        at = np.concatenate((held.start_ns[own], held.end_ns[ended]))
        units = np.concatenate((held.units[own], -held.units[ended]))
        order = np.argsort(at, kind="stable")
        at, units = at[order], units[order]
    whole: Ints = np.cumsum(units)
    return at, whole - min(int(whole.min(initial=0)), 0)
