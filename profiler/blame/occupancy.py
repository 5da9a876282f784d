"""What one place looked like at every moment: units held, who waited, and whose units were in the way.

Waiting counts at the moments at which the place was in use: a queue's worker that waits for work while there is none,
or while others of the pool are free, is idle, not held up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler.blame.events import Events, Ints, Small
from flowprof.profiler.blame.holds import Holds
from flowprof.profiler.blame.waits import Waits
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_MOST_STEPS = 50_000_000


@dataclass(frozen=True, slots=True)
class Occupancy:
    """A step function: row i holds from at_ns[i] to at_ns[i + 1]. counts: whether waiting counts then."""

    at_ns: Ints
    units: Floats
    waiters: Floats
    counts: NDArray[np.bool_]

    def integral(self, values: Floats | NDArray[np.bool_]) -> Floats:
        """∫ values dt from the first moment to every moment, ns."""
        steps = values[:-1] * np.diff(self.at_ns)
        whole: Floats = np.concatenate(([0.0], np.cumsum(steps)))
        return whole

    def between(self, integral: Floats, start_ns: Ints, end_ns: Ints) -> Floats:
        """What an integral grows by in each stretch; moments outside are as the first or the last."""
        if not len(self.at_ns):
            return np.zeros(len(start_ns))
        at = self.at_ns.astype(np.float64)
        grown: Floats = np.interp(end_ns, at, integral) - np.interp(start_ns, at, integral)
        return grown


@dataclass(frozen=True, slots=True)
class Shares:
    """Whose part of something is how large: one row an actor, the largest first."""

    actor: Small
    ns: Floats

    def of(self, actor: int | None) -> float:
        """One actor's part, 0: it has none."""
        return float(self.ns[self.actor == (-1 if actor is None else actor)].sum())


def shares(actor: Small, ns: Floats) -> Shares:
    """Add up what there is by actor; who has nothing is left out."""
    who, at = np.unique(actor, return_inverse=True)
    sums = np.bincount(at, ns, len(who)).astype(np.float64)
    order = np.argsort(-sums, kind="stable")
    order = order[sums[order] > 0]
    return Shares(who[order], sums[order])


@dataclass(frozen=True, slots=True)
class Blame:
    """Of one place: what its waits cost, and in whose way. The parts of `by_hold` and `told` add up to `seen_ns`."""

    waiting_ns: float  # that counts, all waiters added up
    some_ns: float  # at least one waited
    seen_ns: float  # of waiting_ns, that some hold accounts for
    by_actor: Shares  # of seen_ns
    by_hold: Floats  # of seen_ns, per row of the holds
    by_wait: Floats  # of waiting_ns, per row of the waits


def occupancy(
    held: Holds, waits: Waits, kind: str, capacity: int | None, full_share: float, doubtful: bool
) -> Occupancy:
    """Of one place's holds and waits. full_share: of its capacity, else of the most that was ever held, from which on
    waiting counts. doubtful: its events contradict each other or show no releases, so that a wait needs a holder to
    count."""
    at = np.concatenate((held.start_ns, held.end_ns, waits.start_ns, waits.end_ns))
    nothing_held, nobody = np.zeros(len(held.units)), np.zeros(len(waits.place))
    units = np.concatenate((held.units, -held.units, nobody, nobody))
    waiters = np.concatenate((nothing_held, nothing_held, nobody + 1, nobody - 1))
    order = np.argsort(at, kind="stable")
    at, units, waiters = at[order], np.cumsum(units[order]), np.cumsum(waiters[order])
    if len(at):  # one row a moment
        last = np.concatenate((at[1:] != at[:-1], [True]))
        at, units, waiters = at[last], units[last], waiters[last]
    full = full_share * (capacity or (float(units.max()) if len(units) else 0.0))
    counts = (waiters > 0) & (units >= full) & ((units > 0) | ((kind == "state") & (not doubtful)))
    return Occupancy(at, np.asarray(units, np.float64), waiters, counts)


def blame(events: Events, held: Holds, waits: Waits, seen: Occupancy) -> Blame:
    """Share every moment's waiting among those who hold units then, by units; the waiter's own are nobody's fault.

    Where the resource itself says who holds it (`holder` of the wait) that is believed instead.
    """
    counted = seen.integral(seen.counts)
    by_wait = seen.between(counted, waits.start_ns, waits.end_ns)
    told = events.holder[waits.event] if len(waits.event) else np.empty(0, np.int32)
    silent = told <= 0
    actors, parts = [held.actor], [np.zeros(len(held.units))]
    by_hold = parts[0]
    if silent.any():
        free = occupancy_waiters(seen, waits.of(silent))
        share = np.where(seen.counts & (seen.units > 0), free / np.maximum(seen.units, 1), 0.0)
        by_hold = held.units * seen.between(seen.integral(share), held.start_ns, held.end_ns)
        each = np.where(seen.counts & (seen.units > 0), 1 / np.maximum(seen.units, 1), 0.0)
        by_hold -= _own(held, waits.of(silent), seen, seen.integral(each))
        by_hold = np.maximum(by_hold, 0.0)
        parts = [by_hold.copy()]
    for tid in np.unique(told[~silent]).tolist():
        of = ~silent & (told == tid)
        for actor, ns in _of_thread(events, held, waits.of(of), by_wait[of], tid).items():
            actors.append(np.array([actor], np.int32))
            parts.append(np.array([ns]))
            mine = np.flatnonzero(held.actor == actor)
            if len(mine):  # so that its stack is known: the hold that the longest wait met
                start = waits.start_ns[of][int(np.argmax(by_wait[of]))]
                by_hold[mine[max(0, int(np.searchsorted(held.start_ns[mine], start, side="right")) - 1)]] += ns
    some = float(seen.integral(seen.counts)[-1]) if len(seen.at_ns) else 0.0
    by_actor = shares(np.concatenate(actors), np.concatenate(parts))
    return Blame(float(by_wait.sum()), some, float(by_actor.ns.sum()), by_actor, by_hold, by_wait)


def occupancy_waiters(seen: Occupancy, waits: Waits) -> Floats:
    """How many of these waits last at every moment of `seen`."""
    steps = np.zeros(len(seen.at_ns) + 1)
    np.add.at(steps, np.searchsorted(seen.at_ns, waits.start_ns), 1.0)
    np.add.at(steps, np.searchsorted(seen.at_ns, waits.end_ns), -1.0)
    many: Floats = np.cumsum(steps)[:-1]
    return many


def _own(held: Holds, waits: Waits, seen: Occupancy, each: Floats) -> Floats:
    """Of every hold, what it would be charged with for its own actor's waits."""
    own = np.zeros(len(held.units))
    both = _wait_while_they_hold(held, waits)
    waited = np.bincount(waits.actor, waits.ns, minlength=int(both.max(initial=0)) + 1)[both]
    most = max(8, _MOST_STEPS // max(len(seen.at_ns), 1))
    for actor in both[np.argsort(-waited)][:most].tolist():  # who holds and waits at one place: mostly some threads
        theirs, mine = waits.actor == actor, np.flatnonzero(held.actor == actor)
        part = occupancy_waiters(seen, waits.of(theirs))
        steps = np.diff(each) * np.minimum(part, 1)[:-1]
        whole = np.concatenate(([0.0], np.cumsum(steps)))
        own[mine] = held.units[mine] * seen.between(whole, held.start_ns[mine], held.end_ns[mine])
    return own


def _wait_while_they_hold(held: Holds, waits: Waits) -> NDArray[np.int32]:
    """Actors of which a wait falls into a hold of their own: mostly some threads, however many tasks there are."""
    both = _common(held.actor, waits.actor)
    held, waits = held.of(np.isin(held.actor, both)), waits.of(np.isin(waits.actor, both))
    if not len(both):
        return both
    begin = min(int(held.start_ns.min()), int(waits.start_ns.min()))
    span = max(int(held.end_ns.max()), int(waits.end_ns.max())) - begin + 1
    if span * len(both) >= 1 << 62:
        return both
    row, wait_row = (np.searchsorted(both, one.actor) * span - begin for one in (held, waits))  # end to end on one axis
    order = np.argsort(waits.start_ns + wait_row, kind="stable")
    starts, ends = (waits.start_ns + wait_row)[order], np.maximum.accumulate((waits.end_ns + wait_row)[order])
    before, over = np.searchsorted(starts, held.end_ns + row), np.searchsorted(ends, held.start_ns + row, side="right")
    found: NDArray[np.int32] = np.unique(held.actor[before > over])
    return found


def _common(one: Small, other: Small) -> Small:
    """The actors that both have."""
    seen = np.zeros((2, max(one.max(initial=-1), other.max(initial=-1)) + 1), bool)
    seen[0, one], seen[1, other] = True, True
    return np.flatnonzero(seen.all(axis=0)).astype(np.int32)


def _of_thread(events: Events, held: Holds, waits: Waits, ns: Floats, tid: int) -> dict[int, float]:
    """Whom a thread that the resource names held it for: the actor of its latest acquire before each wait."""
    tids = events.actors.tid
    plain = int(np.flatnonzero(tids == tid)[0])
    mine = np.flatnonzero(tids[events.thread[held.acquire]] == tid) if len(held.acquire) else np.empty(0, np.int64)
    at = np.searchsorted(held.start_ns[mine], waits.end_ns, side="left") - 1
    actors = np.where(at >= 0, held.actor[mine][np.maximum(at, 0)], plain) if len(mine) else np.full(len(ns), plain)
    return {int(actor): float(ns[actors == actor].sum()) for actor in np.unique(actors)}
