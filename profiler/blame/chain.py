"""From a holder to what holds the holder up: the chain of blame across resources. Its root is at the end.

From place and holder two ways lead on: the holder waits for another place while it is in the way (follow to who holds
that), or it works on another resource while it holds this one, and that resource grew without bound (what the dominated
units are used for; gigiProfiler's second step). A chain that comes back to itself is a deadlock, and ends there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from flowprof.profiler.blame.events import Ints
from flowprof.profiler.blame.growth import Growth, growth
from flowprof.profiler.blame.study import Study
from flowprof.profiler.blame.waits import OPEN
from flowprof.profiler.intervals import union
from flowprof.profiler.stalls import overlaps

MAX_STEPS = 8


@dataclass(frozen=True, slots=True)
class Step:
    """place: position, -1: a resource as a whole. holder: an actor, None: nobody that was seen. ns: in the way.

    back_to: the step of the chain at whose place the holder waits, -1: at none.
    """

    place: int
    resource: int
    holder: int | None
    why: str
    ns: float
    growth: Growth | None = None
    back_to: int = -1


def follow(study: Study, place: int, holder: int, ns: float) -> tuple[Step, ...]:
    """The chain from a place and who is in the way there, that step included."""
    steps = [Step(place, study.where(place).resource, holder, "", ns)]
    while len(steps) < MAX_STEPS:
        last = steps[-1]
        if last.holder is None or last.place < 0:
            break
        start, end = _in_the_way(study, last.place, last.holder)
        if not len(start):
            break
        onward = _waits_for(study, last, start, end) or _works_on(study, last, start, end)
        if onward is None:
            break
        known = [step.place for step in steps]
        if onward.place >= 0 and onward.place in known:
            said = f"{last.why}; " * bool(last.why) + "a circle: each waits for the other"
            steps[-1] = replace(last, why=said, back_to=known.index(onward.place))
            break
        steps.append(onward)
    return tuple(steps)


def deadlocked(study: Study, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps of a circle in which every holder waits for the next one's place, and did so to the end; else none."""
    if not steps or steps[-1].back_to < 0:
        return ()
    circle = steps[steps[-1].back_to :]
    for step, onward in zip(circle, (*circle[1:], circle[0]), strict=True):
        theirs = np.isin(study.waits.actor, study.threads_of(step.holder if step.holder is not None else -1))
        if not (theirs & (study.waits.place == onward.place) & (study.waits.how == OPEN)).any():
            return ()
    return circle


def _in_the_way(study: Study, place: int, holder: int) -> tuple[Ints, Ints]:
    """When an actor held units of a place while waiting counted there."""
    view = study.view(place)
    mine = view.held.actor == holder
    start, end = union(view.held.start_ns[mine], view.held.end_ns[mine])
    seen = view.seen
    busy = np.flatnonzero(seen.counts[:-1])
    from_, to = union(seen.at_ns[busy], seen.at_ns[busy + 1])
    if not len(start) or not len(from_):
        return start[:0], end[:0]
    one, other, ns = overlaps(start, end, from_, to)
    begins = np.maximum(start[one], from_[other])
    return begins, begins + ns


def _waits_for(study: Study, last: Step, start: Ints, end: Ints) -> Step | None:
    """The place for which the holder waits most while it is in the way."""
    limit = study.thresholds.of("chain", "waits_share")
    whole = float((end - start).sum())
    rows = np.flatnonzero(np.isin(study.waits.actor, study.threads_of(last.holder or 0)))
    rows = rows[study.waits.place[rows] != last.place]
    best, most = -1, limit * whole
    for place in np.unique(study.waits.place[rows]).tolist():
        mine = rows[study.waits.place[rows] == place]
        _, _, ns = overlaps(start, end, study.waits.start_ns[mine], study.waits.end_ns[mine])
        if float(ns.sum()) >= most and ns.sum() > 0:
            best, most = place, float(ns.sum())
    if best < 0:
        return None
    why = f"waits for it for {most / whole * 100:.0f} % of the time in which it is in the way"
    return Step(best, study.where(best).resource, study.in_the_way_of(last.holder or 0, best), why, most)


def _works_on(study: Study, last: Step, start: Ints, end: Ints) -> Step | None:
    """The resource that grew without bound, and on which the holder works while it is in the way."""
    events = study.events
    mine = np.flatnonzero(np.isin(events.actor, study.threads_of(last.holder or 0)))
    resource = events.resource[events.place[mine]]
    mine = mine[resource != last.resource]
    if not len(mine):
        return None
    stretch = np.searchsorted(start, events.at_ns[mine], side="right") - 1
    inside = (stretch >= 0) & (events.at_ns[mine] <= end[np.maximum(stretch, 0)])
    resource = events.resource[events.place[mine]][inside]
    for other in np.unique(resource).tolist():
        on = np.unique(stretch[inside][resource == other])
        touched = float((end[on] - start[on]).sum() / (end - start).sum())
        if touched < study.thresholds.of("chain", "used_share"):
            continue
        grown = growth(study, other, anytime=True)
        if grown is not None:
            why = f"works on it in {touched * 100:.0f} % of the time in which it is in the way"
            return Step(-1, other, grown.holder, why, last.ns, grown)
    return None
