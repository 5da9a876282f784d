"""Verdicts for which nobody needs to wait: growth, leaks, tiny portions, locks taken for nothing, heavy tails.

Where many do wait, for units that leaked or with which a resource grew, that is the cause, and their waiting its price.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from flowprof.profiler.blame.events import ACQUIRE, Ints
from flowprof.profiler.blame.growth import Growth, Leak, growth, held_by, kept_of, leaks
from flowprof.profiler.blame.occupancy import blame
from flowprof.profiler.blame.study import Study, View
from flowprof.profiler.blame.verdict import NOBODY, Verdict, confidence_of, sufferers, trusted, utilisation
from flowprof.profiler.findings import in_ms

MAX_PLACES = 64  # that are looked into, those with most acquires or waiting first


def grown(study: Study, resource: int) -> Verdict | None:
    found = growth(study, resource)
    return None if found is None else growth_verdict(study, found)


def growth_verdict(study: Study, found: Growth) -> Verdict:
    seconds = (found.peak_ns - found.begin_ns) / 1e9
    evidence = [
        f"{found.units} units more within {seconds:.3g} s, as steadily at the end as at the beginning; "
        f"{found.kept * 100:.0f} % of what was acquired in that time was still held at its end",
    ]
    events = study.events
    return Verdict(
        "unbounded growth", -1, found.resource, found.holder, 1.0, 1,
        found.event, 0.0, None, NOBODY, (),
        confidence_of(study, found.resource, 1.0),
        (*evidence, f"{events.actors[found.holder].name} {found.holder_why}") if found.holder is not None
        else tuple(evidence),
        found.peak_ns, found.units / 1e3,
    )  # fmt: skip


def leaking(study: Study, resource: int) -> Verdict | None:
    found = leaks(study, resource)
    return None if found is None else _leak_verdict(study, found)


def unreturned(study: Study, waited: Verdict) -> Verdict | None:
    """A leak or growth whose units account for most of a contention's waiting: with its victims and waiting."""
    view = study.view(waited.place)
    leak = leaks(study, waited.resource, exhausted=True)
    if leak is not None and _carries(study, view, leak.old):
        return _waited_for(_leak_verdict(study, leak), waited)
    rise = growth(study, waited.resource)
    if rise is not None and _carries(study, view, kept_of(study, rise)):
        return _waited_for(growth_verdict(study, rise), waited)
    return None


def _carries(study: Study, view: View, rows: Ints) -> bool:
    """Whether these holds (rows of study.held) account for most of what a place's holds are blamed for."""
    mine = np.isin(view.held.acquire, study.held.acquire[rows])
    share = float(view.blame.by_hold[mine].sum()) / max(float(view.blame.by_hold.sum()), 1.0)
    return share >= study.thresholds.of("contention", "unreturned_share")


def _waited_for(cause: Verdict, waited: Verdict) -> Verdict:
    return replace(
        cause, place=waited.place, waiting_ns=waited.waiting_ns, score=waited.score,
        victims=waited.victims if cause.holders > 1 else waited.victims.without(cause.holder),
        evidence=(*cause.evidence, *waited.evidence),
    )  # fmt: skip


def _leak_verdict(study: Study, found: Leak) -> Verdict:
    resource = found.resource
    holder, share = held_by(study, found)
    rows = found.rows
    oldest = (study.held.end_ns[rows] - study.held.start_ns[rows]).max()
    evidence = (
        f"{len(rows)} of {found.acquires} acquires by that call were never released, and it happens all along",
        f"99 % of the others come back within {in_ms(found.usual_ns)}; the oldest of these is {in_ms(oldest)} old",
    )
    used = utilisation(study, resource, None)
    return Verdict(
        "leak", -1, resource, holder, share, len(np.unique(study.held.actor[rows])),
        int(study.held.acquire[rows[0]]), 0.0, used, NOBODY, (), confidence_of(study, resource, 1.0), evidence,
        int(study.held.start_ns[rows[-1]]), len(rows) / 1e3,
    )  # fmt: skip


def tiny(study: Study, resource: int) -> Verdict | None:
    events, limit = study.events, study.thresholds.of
    of = events.resources[resource]
    if of.kind != "memory":
        return None
    rows = np.flatnonzero((events.kind == ACQUIRE) & (events.resource[events.place] == resource))
    if not len(rows):
        return None
    actor = int(np.argmax(np.bincount(events.actor[rows])))
    rows = rows[events.actor[rows] == actor]
    seconds = (int(events.at_ns[rows[-1]]) - int(events.at_ns[rows[0]])) / 1e9
    lasts = limit("insufficient_allocation", "lasts_share")
    per_s = len(rows) / seconds if seconds >= lasts * events.spans_ns[resource] / 1e9 else 0.0
    portion = float(np.median(events.units[rows]))
    most = max(1.0, limit("insufficient_allocation", "units_share") * (of.capacity or 0))
    used = utilisation(study, resource, actor)
    if (
        per_s < limit("insufficient_allocation", "per_s")
        or portion > most
        or (used is not None and used < limit("insufficient_allocation", "utilisation"))
    ):
        return None
    mine = (study.waits.actor == actor) & (events.resource[study.waits.place] == resource)
    waited = float(study.waits.ns[mine].sum())
    evidence = [f"{per_s:.0f} acquires/s for {seconds:.3g} s, {portion:g} of its units each (median)"]
    if waited:
        evidence.append(f"{in_ms(waited)}, {waited / 1e7 / seconds:.3g} % of that time, between request and grant")
    return Verdict(
        "insufficient allocation", -1, resource, actor, 1.0, 1, int(rows[len(rows) // 2]), waited, used, NOBODY, (),
        confidence_of(study, resource, 1.0), tuple(evidence), int(events.at_ns[rows[len(rows) // 2]]), per_s / 1e6,
    )  # fmt: skip


def locks(study: Study) -> list[Verdict]:
    """Locks that are taken very often though hardly anybody waits."""
    events, limit = study.events, study.thresholds.of
    seconds = events.spans_ns[events.resource] / 1e9
    taken = np.bincount(events.place[events.kind == ACQUIRE], minlength=len(events.places)) / seconds
    waited = np.bincount(study.waits.place, study.waits.ns, minlength=len(events.places))
    found = []
    for place in np.argsort(-taken)[:MAX_PLACES].tolist():
        if taken[place] < limit("over_synchronisation", "per_s"):
            break
        resource = study.where(place).resource
        if study.resource(place).kind != "state" or not trusted(study, resource, place):
            continue
        if waited[place] > limit("over_synchronisation", "waiting_share") * seconds[place] * 1e9:
            continue
        rows = np.flatnonzero((events.place == place) & (events.kind == ACQUIRE))
        actor = int(np.argmax(np.bincount(events.actor[rows])))
        share = float((events.actor[rows] == actor).mean())
        said = f"{taken[place]:.0f} acquires/s, {in_ms(waited[place])} of waiting in all"
        found.append(
            Verdict("over-synchronisation", place, resource, actor, share, 1, int(rows[0]), float(waited[place]), None,
                    NOBODY, (), confidence_of(study, resource, 1.0, place), (said,), int(events.at_ns[rows[0]]),
                    taken[place] / 1e9)
        )  # fmt: skip
    return found[:1]


def tails(study: Study) -> list[Verdict]:
    """Places where a few waits are far longer than the others, behind one holder."""
    limit, events = study.thresholds.of, study.events
    found = []
    for place in study.waited_places(limit("tail", "some_share"))[:MAX_PLACES]:
        resource = study.where(place).resource
        if not trusted(study, resource, place):
            continue
        view = study.view(place)
        ns = view.blame.by_wait
        if len(ns) < limit("tail", "waits") or not view.blame.waiting_ns:
            continue
        half, high = np.quantile(ns, (0.5, 0.99))
        long = ns >= high
        if high < limit("tail", "factor") * max(half, 1.0):
            continue
        behind = blame(events, view.held, view.waits.of(long), view.seen)
        if (
            not len(behind.by_actor.actor)
            or behind.waiting_ns < limit("tail", "some_share") * events.spans_ns[study.where(place).resource]
        ):
            continue
        actor = int(behind.by_actor.actor[0])
        share = float(behind.by_actor.ns[0]) / behind.waiting_ns
        if share < limit("tail", "holder_share"):
            continue
        usual = view.blame.by_actor.of(actor) / max(view.blame.seen_ns, 1.0)
        worst = int(np.argmax(ns))
        mine = np.flatnonzero(view.held.actor == actor)
        evidence = (
            f"median wait {in_ms(half)}, 99th percentile {in_ms(high)}, {len(ns)} waits",
            f"it is in the way for {share * 100:.0f} % of the longest waits' time, {usual * 100:.0f} % of all",
        )
        found.append(
            Verdict("variance", place, resource, actor, share, 1,
                    int(view.held.acquire[mine[int(np.argmax(behind.by_hold[mine]))]]) if len(mine) else -1,
                    behind.waiting_ns, None,
                    sufferers(replace(view, blame=replace(view.blame, by_wait=ns * long)), actor),
                    (), "medium", evidence, int(view.waits.start_ns[worst] + view.waits.ns[worst] // 2), 1e-6)
        )  # fmt: skip
    return found[:1]
