"""Brackets in bulk: which closing event belongs to which opening one, by key; and by which key. Pure numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from flowprof.profiler.blame.events import ACQUIRE, KINDS, RELEASE, WAIT, Bools, Events, Ints, Small
from flowprof.profiler.blame.keys import Keys

RELEASED, OPEN, REUSED, INFERRED = range(4)  # how a hold is known to have ended; inferred: by its last use


def same_as_next(key: Keys) -> Bools:
    """Of each row of a sorted key whether the next row has the same; False for the last."""
    same = np.zeros(len(key), bool)
    same[:-1] = key[1:] == key[:-1]
    return same


def nested(key: Keys, opens: Bools) -> tuple[Ints, Ints]:
    """Of each row its partner (-1: none), and how deep it lies (0: unpaired, 1: nothing between the two).

    Rows are sorted by key, then by time. A closing row belongs to the latest opening one that has none yet: where
    events are lost this keeps the pairs after them right.
    """
    partner, depth = np.full(len(key), -1, np.int64), np.zeros(len(key), np.int64)
    hit = np.flatnonzero(opens[:-1] & ~opens[1:] & (key[:-1] == key[1:])) if len(key) else np.empty(0, np.int64)
    partner[hit], partner[hit + 1] = hit + 1, hit
    depth[hit] = depth[hit + 1] = 1
    left = np.flatnonzero(partner < 0)
    steps = np.where(opens[left], 1, -1)
    level = np.cumsum(steps) - np.where(opens[left], 0, -1)  # opening: the level that it begins; closing: that it ends
    order = np.lexsort((level, key[left]))  # stable: by time within a level
    rows, levels = left[order], level[order]
    hit = np.flatnonzero(
        opens[rows[:-1]] & ~opens[rows[1:]] & (key[rows[:-1]] == key[rows[1:]]) & (levels[:-1] == levels[1:])
    ) if len(rows) else rows  # fmt: skip
    partner[rows[hit]], partner[rows[hit + 1]] = rows[hit + 1], rows[hit]
    depth[rows[hit]] = depth[rows[hit + 1]] = 2
    return partner, depth


def pairing_actor(events: Events, kinds: tuple[int, ...] = (WAIT, ACQUIRE, RELEASE)) -> Small:
    """Who an event is joined by: the task, but the thread where not all of these kinds name one."""
    named = events.actor != events.thread
    if not named.any():
        return events.actor
    of, many = events.resource[events.place], len(events.resources)
    each = of * np.int64(KINDS) + events.kind
    told, all_of = (np.bincount(rows, minlength=many * KINDS).reshape(many, KINDS) for rows in (each[named], each))
    share = told / np.maximum(all_of, 1)
    apart = np.zeros(many, bool)
    for one, other in pairwise(kinds):
        apart |= (all_of[:, one] > 0) & (all_of[:, other] > 0) & (np.abs(share[:, one] - share[:, other]) > 0.5)
    return np.where(apart[of], events.thread, events.actor) if apart.any() else events.actor


def never_released(events: Events) -> Bools:
    """Events of resources whose releases are not probed: what is only waited for (a barrier, a signal) is not held."""
    only_waited = [bool(one.events) and "release" not in one.events for one in events.resources]
    found: Bools = (
        np.array(only_waited, bool)[events.resource[events.place]] if len(events.places) else np.zeros(0, bool)
    )
    return found


def without_unit(events: Events) -> Bools:
    """Events that tell no unit though the resource's acquires do: nothing joins them with others."""
    many = len(events.resources)
    if not len(events.places):
        return np.zeros(0, bool)
    resource = events.resource[events.place]
    taken = events.kind == ACQUIRE
    told = np.bincount(resource[taken & events.has_unit], minlength=many)
    usual = told > 0.7 * np.bincount(resource[taken], minlength=many)
    bare: Bools = ~events.has_unit & usual[resource]
    return bare
