"""Who keeps a resource growing: who keeps it from shrinking, where somebody does, else who acquires most of it.

It is kept from shrinking by who has a part of it all along (a snapshot of a log), or by who has what those wait for
who would give its units back (a purge that waits for a transaction to end).
"""

from __future__ import annotations

import numpy as np
from flowprof.profiler.blame.events import RELEASE, WAIT
from flowprof.profiler.blame.keys import mixed
from flowprof.profiler.blame.pairing import OPEN
from flowprof.profiler.blame.study import Study


def pinner(study: Study, resource: int, begin_ns: int, peak_ns: int) -> tuple[int | None, str, int]:
    """The actor, why it is that one, and an event of its own that shows it: an acquire, mostly."""
    events, held = study.events, study.held
    over = np.flatnonzero(
        (events.resource[held.place] == resource) & (held.start_ns < peak_ns) & (held.end_ns > begin_ns)
    )
    if not len(over):
        return None, "", -1
    units = np.bincount(held.actor[over], held.units[over])
    most = int(np.argmax(units))
    actor, event, share = _all_along(study, resource, begin_ns, peak_ns, most)
    if actor is not None:
        return actor, f"holds a part of it for {share * 100:.0f} % of that time", event
    held_up = _holds_up_its_end(study, resource, begin_ns, peak_ns)
    if held_up is not None:
        return held_up
    mine = over[held.actor[over] == most]
    return most, f"acquired {float(units[most] / units.sum()) * 100:.0f} % of the units", int(held.acquire[mine[0]])


def _holds_up_its_end(study: Study, resource: int, begin_ns: int, peak_ns: int) -> tuple[int, str, int] | None:
    """As pinner: who has what the one that gives most units back waits for meanwhile."""
    events, waits = study.events, study.waits
    gives = (events.kind == RELEASE) & (events.resource[events.place] == resource)
    if not gives.any():
        return None
    giver = int(np.argmax(np.bincount(events.actor[gives])))
    theirs = np.isin(waits.actor, study.threads_of(giver)) & (events.resource[waits.place] != resource)
    inside = np.minimum(waits.end_ns, peak_ns) - np.maximum(waits.start_ns, begin_ns)
    rows = np.flatnonzero(theirs & (inside > 0))
    if not len(rows):
        return None
    sums = np.bincount(waits.place[rows], inside[rows])
    place = int(np.argmax(sums))
    share = float(sums[place] / (peak_ns - begin_ns))
    if share < study.thresholds.of("unbounded_growth", "pinned_share"):
        return None
    holder, held = study.in_the_way_of(giver, place, begin_ns, peak_ns), study.view(place).held
    if holder is None:
        return None
    mine = np.flatnonzero(held.actor == holder)
    if not len(mine):
        return None
    longest = mine[int(np.argmax(held.end_ns[mine] - held.start_ns[mine]))]
    what = f"{study.resource(place).name}, for which {events.actors[giver].name}, who gives it back,"
    return holder, f"holds {what} waits for {share * 100:.0f} % of that time", int(held.acquire[longest])


def _all_along(study: Study, resource: int, begin_ns: int, peak_ns: int, but: int) -> tuple[int | None, int, float]:
    """The actor, other than `but`, whose events with one unit span most of a time, its first event, and the share."""
    events, held = study.events, study.held
    rows = np.flatnonzero((events.resource[events.place] == resource) & (events.kind != WAIT) & (events.actor != but))
    kept = np.flatnonzero((held.how == OPEN) & (held.actor != but) & (events.resource[held.place] == resource))
    key = mixed(events.place[rows], events.has_unit[rows], events.unit[rows], events.actor[rows])
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    begins = np.flatnonzero(np.concatenate((np.ones(min(len(key), 1), bool), key[1:] != key[:-1])))
    ends = np.concatenate((begins[1:], [len(key)])) - 1
    first = np.concatenate((rows[begins], held.acquire[kept]))
    until = np.concatenate((events.at_ns[rows[ends]] if len(rows) else rows, held.end_ns[kept]))
    inside = np.minimum(until, peak_ns) - np.maximum(events.at_ns[first], begin_ns)
    if not len(inside):
        return None, -1, 0.0
    actor = events.actor[first]
    most = study.thresholds.of("unbounded_growth", "few_share") * len(begins)
    few = np.bincount(actor) <= most  # a hand in a few units only
    best = int(np.argmax(np.where(few[actor], inside, -1)))
    share = float(inside[best] / (peak_ns - begin_ns))
    if not few[actor[best]] or share < study.thresholds.of("unbounded_growth", "pinned_share"):
        return None, -1, 0.0
    return int(actor[best]), int(first[best]), share
