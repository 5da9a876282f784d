"""From ACQUIRE to RELEASE: who held which units of what, and when.

An acquire is joined with its release by place and unit, whoever releases. Identity is place, unit and generation: a
unit that is acquired again was released before, seen or not, and its next life is another hold. Three ways, by
resource:

* the events of every unit alternate (a lock, pages, addresses): an acquire ends at the unit's next event;
* several hold a unit at once (shared locks, pools without units): an actor's own acquire and release are joined,
  innermost first, what is left over with the releases of others;
* the events contradict each other (some were lost or mistaken): as before, but a use by somebody who is not known to
  hold it shows that they do; an acquire right before the same actor waits again is dropped; and where a unit has one
  holder at a time, the next one's hold ends it.

Of what others hand out (a condition that is signalled, jobs that are posted, a futex that a producer wakes) a hold is
the work on what was handed out: it ends when its actor waits there again, not at the next signal, which is for somebody
else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler.blame.doubtful import contradictory
from flowprof.profiler.blame.events import ACQUIRE, RELEASE, WAIT, Bools, Events, Ints, Small
from flowprof.profiler.blame.keys import mixed
from flowprof.profiler.blame.pairing import (
    OPEN,
    RELEASED,
    REUSED,
    nested,
    never_released,
    pairing_actor,
    same_as_next,
    without_unit,
)
from flowprof.profiler.blame.thresholds import Thresholds
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Holds:
    """One row per hold, by start. acquire: the event; how: as above. key: of place and unit."""

    place: Small
    actor: Small
    units: Ints
    start_ns: Ints
    end_ns: Ints
    acquire: Ints
    how: NDArray[np.int8]
    key: NDArray[np.uint64]
    broken: NDArray[np.float64]  # per resource: share of acquires and releases without a partner
    broken_at: NDArray[np.float64]  # per place; that of the resource where none has one
    grants: Ints  # events that show that a wait is over, in order of time
    exclusive: Bools  # per resource: one holder of a unit at a time
    handed: Bools  # per place: its units come from others, not back from who had them

    def of(self, which: NDArray[np.int64] | Bools) -> Holds:
        """Some of them."""
        return Holds(
            self.place[which], self.actor[which], self.units[which], self.start_ns[which], self.end_ns[which],
            self.acquire[which], self.how[which], self.key[which], self.broken, self.broken_at, self.grants,
            self.exclusive, self.handed,
        )  # fmt: skip


def holds(events: Events, thresholds: Thresholds) -> Holds:
    """Every hold of every resource."""
    clean_share, lossy_share = (thresholds.of("trust", name) for name in ("clean_share", "lossy_share"))
    of = events.resource
    many = len(events.resources)
    endless = never_released(events)
    turns = np.flatnonzero(((events.kind == ACQUIRE) | (events.kind == RELEASE)) & ~without_unit(events) & ~endless)
    key = mixed(events.place[turns], events.has_unit[turns], events.unit[turns])
    order = np.argsort(key, kind="stable")
    rows, key = turns[order], key[order]
    opens = events.kind[rows] == ACQUIRE
    resource = of[events.place[rows]] if len(rows) else rows
    same = same_as_next(key)
    repeated = np.zeros(len(rows), bool)
    repeated[:-1] = same[:-1] & (opens[1:] == opens[:-1])
    total = np.bincount(resource, minlength=many)
    clean = (np.bincount(resource[repeated], minlength=many) <= clean_share * total) & (total > 0)
    tidy = clean[resource] if len(rows) else np.empty(0, bool)
    first = _alternating(events, rows[tidy], key[tidy], opens[tidy])
    partner, _ = nested(key, opens)
    alone = np.bincount(resource[partner < 0], minlength=many) / np.maximum(total, 1)
    shared = _shared(events, np.sort(rows[~tidy]), many, lossy_share)
    exclusive = clean | ~shared
    lossy = ~clean & np.where(shared, alone > lossy_share, True)
    pairs = np.flatnonzero(opens & (partner >= 0))
    apart = _by_another(events, rows[pairs], rows[partner[pairs]])
    others = 2 * np.bincount(resource[pairs[apart]], minlength=many) > np.bincount(resource[pairs], minlength=many)
    rest = contradictory(events, clean, exclusive, lossy, others, clean_share)
    parts = [np.concatenate(column) for column in zip(first[:-1], rest[:-3], strict=True)]
    order = np.argsort(parts[3], kind="stable")
    columns = [part[order] for part in parts]
    handed = _handed(events, others, rows[pairs], apart)
    place, actor, start, end, how = (columns[at] for at in (0, 1, 3, 4, 6))
    columns[4], columns[6] = _until_idle(events, place, actor, start, end, how, handed)
    broken = np.where(clean, _unmatched(resource.astype(np.int64), opens, same, many), rest[-3])
    broken_at = np.where(clean[of], _unmatched_at(events.place[rows], opens, same, len(of)), rest[-2])
    broken_at = np.where(np.isnan(broken_at), broken[of], broken_at)
    shown = endless & (events.kind == ACQUIRE)
    shown[np.concatenate((first[-1], rest[-1]))] = True
    return Holds(
        columns[0], columns[1], columns[2], columns[3], columns[4], columns[5], columns[6], columns[7], broken,
        broken_at, np.flatnonzero(shown), exclusive, handed,
    )  # fmt: skip


def _by_another(events: Events, acquires: Ints, releases: Ints) -> Bools:
    """Whether somebody else releases: another task where both name one, else another thread."""
    tasks = (events.actor[acquires] != events.thread[acquires]) & (events.actor[releases] != events.thread[releases])
    found: Bools = np.where(
        tasks, events.actor[acquires] != events.actor[releases], events.thread[acquires] != events.thread[releases]
    )
    return found


def _handed(events: Events, others: Bools, acquires: Ints, apart: Bools) -> Bools:
    """Places whose units come from others. others: resources of which mostly others release what one acquires.

    Of a queue that suffices. What is called a state may be a lock: there, nine of ten releases are by threads that
    never acquire it, and no wait tells who has it.
    """
    many = len(events.places)
    if not many:
        return np.zeros(0, bool)
    kinds = np.array([one.kind for one in events.resources])[events.resource]
    released, waits = np.flatnonzero(events.kind == RELEASE), np.flatnonzero(events.kind == WAIT)
    taken = events.kind == ACQUIRE
    pair = events.place * np.int64(len(events.actors.threads)) + events.thread
    once = np.isin(pair[released], pair[taken])
    pairs = np.bincount(events.place[acquires], minlength=many)
    mostly = 10 * np.bincount(events.place[acquires[apart]], minlength=many) >= 9 * pairs
    own = np.bincount(events.place[released[once]], minlength=many)
    rarely = 10 * own <= np.bincount(events.place[released], minlength=many)
    told = np.bincount(events.place[waits[events.holder[waits] > 0]], minlength=many) > 0
    parts = np.bincount(events.place[events.has_unit], minlength=many) > 0
    signal = (kinds == "state") & (pairs > 0) & mostly & rarely & ~told & ~parts
    found: Bools = ((kinds == "queue") & others[events.resource]) | signal
    return found


def _until_idle(
    events: Events, place: Small, actor: Small, start: Ints, end: Ints, how: NDArray[np.int8], handed: Bools
) -> tuple[Ints, NDArray[np.int8]]:
    """When holds end and how: those of places that are `handed` out by their actors' next waits."""
    mine = np.flatnonzero(handed[place])
    asked = np.flatnonzero(events.kind == WAIT)
    if not len(mine) or not len(asked):
        return end, how
    at = np.concatenate((events.at_ns[asked], start[mine]))
    who = np.concatenate((mixed(events.place[asked], events.actor[asked]), mixed(place[mine], actor[mine])))
    waits = np.r_[np.ones(len(asked), bool), np.zeros(len(mine), bool)]
    order = np.lexsort((~waits, at, who))[::-1]  # from the last on: the next wait of each is the latest one seen
    seen = np.where(waits[order], np.arange(len(order)), -1)
    latest = np.maximum.accumulate(seen)
    following = np.where((latest >= 0) & (who[order][latest] == who[order]), at[order][latest], np.iinfo(np.int64).max)
    idle = np.empty(len(order), np.int64)
    idle[order] = following
    until = idle[len(asked) :]
    sooner = mine[until < end[mine]]
    end, how = end.copy(), how.copy()
    end[sooner] = until[until < end[mine]]
    how[sooner] = RELEASED
    return end, how


def _unmatched(
    resource: NDArray[np.int32] | NDArray[np.int64], opens: Bools, same: Bools, many: int
) -> NDArray[np.float64]:
    """Of resources whose events alternate: the smaller of the shares of acquires that end nowhere and of releases that
    begin nowhere. Leaks have many of the former, a recording that began late some of the latter; wrong units both."""
    follows = np.zeros(len(opens), bool)
    follows[1:] = same[:-1]
    shares = [
        np.bincount(resource[of & lone], minlength=many) / np.maximum(np.bincount(resource[of], minlength=many), 1)
        for of, lone in ((opens, ~same), (~opens, ~follows))
    ]
    both: NDArray[np.float64] = np.minimum(shares[0], shares[1])
    return both


def _unmatched_at(place: Small, opens: Bools, same: Bools, many: int) -> NDArray[np.float64]:
    """As _unmatched, by place; NaN where no acquire is followed by a release."""
    released = np.zeros(len(opens), bool)
    released[:-1] = same[:-1] & opens[:-1] & ~opens[1:]
    there = np.bincount(place[released], minlength=many) > 0
    found: NDArray[np.float64] = np.where(there, _unmatched(place, opens, same, many), np.nan)
    return found


def _alternating(events: Events, rows: Ints, key: NDArray[np.uint64], opens: Bools) -> tuple[NDArray[np.generic], ...]:
    same = same_as_next(key)
    follows = np.zeros(len(rows), bool)
    follows[1:] = same[:-1]
    # Released and never acquired: it was held when the recording began.
    early = ~opens & ~follows
    taken = np.flatnonzero(opens)
    row = rows[taken]
    end = np.where(same[taken], events.at_ns[rows[np.minimum(taken + 1, max(len(rows) - 1, 0))]], events.until_ns(row))
    released = np.zeros(len(rows), bool)
    released[:-1] = same[:-1] & ~opens[1:]
    how = np.where(~same[taken], OPEN, np.where(released[taken], RELEASED, REUSED)).astype(np.int8)
    before = rows[early]
    columns = (
        (row, before), (events.at_ns[row], np.full(len(before), events.begin_ns)), (end, events.at_ns[before]),
        (how, np.full(len(before), RELEASED, np.int8)), (key[taken], key[early]),
    )  # fmt: skip
    acquire, start, end, how, keys = (np.concatenate(column) for column in columns)
    return (events.place[acquire], events.actor[acquire], events.units[acquire], start, end, acquire, how, keys, row)


def _shared(events: Events, rows: Ints, many: int, lossy_share: float) -> Bools:
    """Resources of which several hold a unit at a time: pools whose units are not told, and where the acquires and
    releases of every single actor alternate though those of all together do not (shared locks, pins)."""
    key = mixed(events.place[rows], events.has_unit[rows], events.unit[rows], pairing_actor(events)[rows])
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    resource = events.resource[events.place[rows]] if len(rows) else rows
    opens = events.kind[rows] == ACQUIRE
    repeated = np.zeros(len(rows), bool)
    repeated[:-1] = same_as_next(key)[:-1] & (opens[1:] == opens[:-1])
    total = np.bincount(resource, minlength=many)
    apart = (np.bincount(resource[repeated], minlength=many) <= lossy_share * total) & (total > 0)
    bare = 2 * np.bincount(resource[events.has_unit[rows]], minlength=many) < total
    pooled = np.array([one.kind != "state" for one in events.resources], bool)
    found: Bools = apart | (bare & pooled)
    return found
