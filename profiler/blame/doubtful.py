"""Holds from events that contradict each other, or of units that several hold at a time. Part of holds.py."""

from __future__ import annotations

import numpy as np
from flowprof.profiler.blame.events import ACQUIRE, GIVE_UP, RELEASE, USE, WAIT, Bools, Events, Ints, Small
from flowprof.profiler.blame.keys import mixed
from flowprof.profiler.blame.pairing import (
    INFERRED,
    OPEN,
    RELEASED,
    REUSED,
    nested,
    never_released,
    pairing_actor,
    same_as_next,
    without_unit,
)
from numpy.typing import NDArray


def contradictory(
    events: Events, clean: Bools, exclusive: Bools, lossy: Bools, handed_on: Bools, clean_share: float
) -> tuple[NDArray[np.generic], ...]:
    """The columns of Holds, of resources that are not clean; then the share of events without a partner by resource
    and by place (NaN: none there has one), and the events that show that a wait is over.

    lossy: resources whose events are doubted. handed_on: of which mostly others release what one acquires.
    """
    of, many = events.resource, len(events.resources)
    tells = (events.kind == WAIT) | (~without_unit(events) & (events.kind != GIVE_UP))
    mine = ~clean[of[events.place]] & tells & ~never_released(events)
    chosen = np.flatnonzero(mine) if len(events.places) else np.empty(0, np.int64)
    wide = mixed(events.place[chosen], events.has_unit[chosen], events.unit[chosen], pairing_actor(events)[chosen])
    order = np.argsort(wide, kind="stable")
    rows, key = chosen[order], wide[order]
    resource: Ints = of[events.place[rows]].astype(np.int64) if len(rows) else rows
    kept = _shown(events.kind[rows], key, lossy[resource] if len(rows) else np.empty(0, bool))
    rows, key, resource = rows[kept], key[kept], resource[kept]
    kind, new = events.kind[rows], _begins(key)
    shown_by = rows[lossy[resource] & (kind != ACQUIRE)]  # who uses or releases does not wait any more
    # A use by who holds nothing shows that they do.
    after_release = np.concatenate(([False], kind[:-1] == RELEASE)) if len(rows) else np.empty(0, bool)
    implied = (kind == USE) & (new | after_release) & _units_match(events, resource, rows, many)
    implied &= ~handed_on[resource] | ~_acquired(events, rows)
    opens, part = (kind == ACQUIRE) | implied, (kind != USE) | implied
    last_use = _last_of_group(events.at_ns[rows], np.cumsum(new | opens) - 1)
    rows, key, resource = rows[part], key[part], resource[part]
    opens, implied, last_use = opens[part], implied[part], last_use[part]
    partner, depth = nested(key, opens)
    total = np.maximum(np.bincount(resource[~implied], minlength=many), 1)
    partner, key1 = _left_over(events, rows, opens, partner, (handed_on | ~lossy)[resource])
    taken = np.flatnonzero(opens)
    row, mate = rows[taken], partner[taken]
    end = np.where(mate >= 0, events.at_ns[rows[mate]], np.where(implied[taken], last_use[taken], events.until_ns(row)))
    how = np.where(mate >= 0, RELEASED, np.where(implied[taken], INFERRED, OPEN)).astype(np.int8)
    start, keys, actor = events.at_ns[row], key1[taken], events.actor[row]
    again = _next_start(keys, start, actor, (mate >= 0) | implied[taken] | (last_use[taken] > start))
    flat = np.bincount(resource[taken][depth[taken] == 2], minlength=many) <= (clean_share + 0.1) * np.maximum(
        np.bincount(resource[taken], minlength=many), 1
    )
    own = _next_own(key[taken], start)
    cut = np.where(exclusive[resource[taken]], again, np.iinfo(np.int64).max)
    cut = np.where((how == OPEN) & flat[resource[taken]], np.minimum(cut, own), cut)
    how = np.where(cut < end, np.int8(REUSED), how)
    end = np.minimum(end, cut)
    broken = np.bincount(resource[(partner < 0) & ~implied], minlength=many) / total
    lone, paired = (np.bincount(events.place[rows[one & ~implied]], minlength=len(events.places))
                    for one in (partner < 0, partner >= 0))  # fmt: skip
    broken_at = np.where(paired > 0, lone / np.maximum(lone + paired, 1), np.nan)
    grants = np.concatenate((row, shown_by))
    return (events.place[row], actor, events.units[row], start, end, row, how, keys, broken, broken_at, grants)


def _begins(key: NDArray[np.uint64]) -> Bools:
    """Of each row of a sorted key whether it is the first of its key."""
    first = np.ones(len(key), bool)
    first[1:] = ~same_as_next(key)[:-1]
    return first


def _shown(kind: NDArray[np.int8], key: NDArray[np.uint64], lossy: Bools) -> Bools:
    """The events that show something about holds: no waits; and where events are doubted, no single acquire or use
    right before the same actor waits again."""
    if not len(kind):
        return np.zeros(0, bool)
    new = _begins(key)
    run = np.cumsum(new | (kind == WAIT)) - 1  # what an actor shows between two waits
    many = int(run[-1]) + 1
    ends = np.flatnonzero(np.concatenate((run[1:] != run[:-1], [True])))
    waits_again = np.zeros(many, bool)
    waits_again[:-1] = ~new[ends[:-1] + 1]
    single = (np.bincount(run[kind != WAIT], minlength=many) == 1) & waits_again
    shown: Bools = (kind != WAIT) & ~(lossy & single[run] & (kind != RELEASE))
    return shown


def _units_match(events: Events, resource: Ints, rows: Ints, many: int) -> Bools:
    """Whether an event tells a unit where the resource's acquires do, and none where they do not."""
    taken = events.kind[rows] == ACQUIRE
    told = np.bincount(resource[taken & events.has_unit[rows]], minlength=many)
    usual = told * 2 > np.bincount(resource[taken], minlength=many)
    none = np.bincount(resource[taken], minlength=many) == 0
    matches: Bools = (events.has_unit[rows] == usual[resource]) | none[resource]
    return matches


def _acquired(events: Events, rows: Ints) -> Bools:
    """Whether anybody is seen to acquire an event's unit, ever."""
    key = mixed(events.place[rows], events.has_unit[rows], events.unit[rows])
    seen: Bools = np.isin(key, key[events.kind[rows] == ACQUIRE])
    return seen


def _last_of_group(at_ns: Ints, group: Ints) -> Ints:
    """The time of the last row of each row's group."""
    if not len(group):
        return at_ns
    ends = np.flatnonzero(np.concatenate((group[1:] != group[:-1], [True])))
    return at_ns[ends][group]


def _left_over(
    events: Events, rows: Ints, opens: Bools, partner: Ints, joined: Bools
) -> tuple[Ints, NDArray[np.uint64]]:
    """Join what has no partner of its own actor with that of others, where the events can be trusted."""
    key = mixed(events.place[rows], events.has_unit[rows], events.unit[rows])
    left = np.flatnonzero((partner < 0) & joined)
    order = left[np.lexsort((rows[left], key[left]))]
    mates, _ = nested(key[order], opens[order])
    partner = partner.copy()
    found = mates >= 0
    partner[order[found]] = order[mates[found]]
    return partner, key


def _next_start(key: NDArray[np.uint64], start: Ints, actor: Small, solid: Bools) -> Ints:
    """When another actor's next hold of the same unit begins, for each; the largest number where none does."""
    order = np.lexsort((start, key))
    never = np.full(len(key), np.iinfo(np.int64).max)
    rows = order[solid[order]]
    if not len(rows):
        return never
    changes = np.concatenate(((key[rows][1:] != key[rows][:-1]) | (actor[rows][1:] != actor[rows][:-1]), [True]))
    group = np.concatenate(([0], np.cumsum(changes)[:-1]))  # runs of one actor
    ends = np.flatnonzero(changes)
    after = np.minimum(ends + 1, len(rows) - 1)
    there = (ends + 1 < len(rows)) & (key[rows][after] == key[rows][ends])
    never[rows] = np.where(there, start[rows][after], np.iinfo(np.int64).max)[group]
    # A hold that is not solid ends at the next solid one, too.
    weak = order[~solid[order]]
    place = np.cumsum(solid[order])[~solid[order]]
    following = rows[np.minimum(place, len(rows) - 1)]
    meets = (place < len(rows)) & (key[following] == key[weak])
    never[weak] = np.where(meets, start[following], np.iinfo(np.int64).max)
    return never


def _next_own(key: NDArray[np.uint64], start: Ints) -> Ints:
    """When the same actor next acquires the same unit; rows are sorted by key, then by time."""
    following = np.full(len(key), np.iinfo(np.int64).max)
    if len(key):
        following[:-1] = np.where(key[1:] == key[:-1], start[1:], np.iinfo(np.int64).max)
    return following
