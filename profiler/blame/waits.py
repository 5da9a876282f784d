"""From WAIT to ACQUIRE: who waited where, from when to when.

A wait ends at the actor's next acquire at that place, or where the actor gives it up (a time-out). It is cut at the
actor's next wait for the same place: a loop around a condition asks again and again. What a thread waits for on its own
behalf, and never gets, ends at the latest when it waits for another instance of the same resource: an error that
unwinds the stack shows no return. A wait that nothing ends counts to the recording's end: hangs are exactly that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler.blame.events import ACQUIRE, GIVE_UP, WAIT, Events, Ints, Small
from flowprof.profiler.blame.holds import Holds
from flowprof.profiler.blame.keys import mixed
from flowprof.profiler.blame.pairing import pairing_actor, same_as_next
from numpy.typing import NDArray

GRANTED, IN_VAIN, OPEN = range(3)  # in vain: asked again, or given up


@dataclass(frozen=True, slots=True)
class Waits:
    """One row per wait, by start. event: the WAIT; got: the event that ended it, -1: none; how: as above."""

    place: Small
    actor: Small
    start_ns: Ints
    end_ns: Ints
    event: Ints
    got: Ints
    how: NDArray[np.int8]

    def of(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Waits:
        """Some of them."""
        return Waits(
            self.place[which], self.actor[which], self.start_ns[which], self.end_ns[which], self.event[which],
            self.got[which], self.how[which],
        )  # fmt: skip

    @property
    def ns(self) -> Ints:
        return self.end_ns - self.start_ns


def waits(events: Events, held: Holds, lossy_share: float) -> Waits:
    """Every wait. lossy_share: of a resource's events without a partner, above which the others are doubted."""
    asked = np.flatnonzero(events.kind == WAIT)
    asked = asked[~_strange(events, held.broken > lossy_share, asked)]
    rows = np.concatenate((asked, held.grants, np.flatnonzero(events.kind == GIVE_UP)))
    key = mixed(events.place[rows], pairing_actor(events, (WAIT, ACQUIRE))[rows])
    order = np.lexsort((rows, key))
    rows, key = rows[order], key[order]
    same = same_as_next(key)
    waiting, vain = events.kind[rows] == WAIT, np.isin(events.kind[rows], (WAIT, GIVE_UP))
    following = np.concatenate((rows[1:], rows[:1]))
    next_vain = np.concatenate((vain[1:], [False]))
    chosen = np.flatnonzero(waiting)
    how = np.where(~same[chosen], OPEN, np.where(next_vain[chosen], IN_VAIN, GRANTED)).astype(np.int8)
    got = np.where(how == GRANTED, following[chosen], -1)
    end = np.where(how == OPEN, events.until_ns(rows[chosen]), events.at_ns[following[chosen]])
    event = rows[chosen]
    # Over, as a use or a release shows, but since when? Its acquire is missing, so its length is not known.
    shown = (how == GRANTED) & (events.kind[following[chosen]] != ACQUIRE)
    end = np.where(shown, events.at_ns[event], end)
    named = events.actor[event]
    bare = (named == events.thread[event]) & (got >= 0)  # the task is known once it has got the resource
    actor = np.where(bare, events.actor[np.maximum(got, 0)], named).astype(np.int32)
    elsewhere = _next_elsewhere(events, event)
    left = (how != GRANTED) & (elsewhere < end)
    end, how = np.where(left, elsewhere, end), np.where(left, np.int8(IN_VAIN), how)
    by_start = np.argsort(event, kind="stable")
    return Waits(
        events.place[event], actor, events.at_ns[event], np.maximum(end, events.at_ns[event]), event, got, how
    ).of(by_start)


def _next_elsewhere(events: Events, event: Ints) -> Ints:
    """Of each WAIT when the same thread, on its own behalf as this time, next waits for the same resource."""
    never = np.iinfo(np.int64).max
    found = np.full(len(event), never, np.int64)
    own = np.flatnonzero(events.actor[event] == events.thread[event])
    rows = event[own]
    key = mixed(events.resource[events.place[rows]] if len(rows) else rows, events.thread[rows])
    order = np.lexsort((rows, key))
    following = np.r_[events.at_ns[rows[order]][1:], never][: len(rows)]
    found[own[order]] = np.where(same_as_next(key[order]), following, never)
    return found


def _strange(events: Events, lossy: NDArray[np.bool_], asked: Ints) -> NDArray[np.bool_]:
    """Waits that name a unit where the resource's waits do not, in events that contradict each other: mistaken ones."""
    resource = events.resource[events.place[asked]] if len(asked) else asked
    many = len(events.resources)
    named = events.has_unit[asked]
    usual = 2 * np.bincount(resource[named], minlength=many) > np.bincount(resource, minlength=many)
    strange: NDArray[np.bool_] = named & ~usual[resource] & lossy[resource]
    return strange
