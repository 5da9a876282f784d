"""The verdicts: which resource has which problem, who is to blame, who suffers, and how sure that is.

Contention: others hold it while tasks wait. Inefficient policy: the same, and the holder hardly uses what it holds.
Where most of that waiting is for units that never come back, the leak (or the growth) is the verdict. Insufficient
allocation, leak, unbounded growth, over-synchronisation and a heavy tail need no victims. Thresholds:
data/resource_thresholds.toml. Order: by the waiting that a resource and the chains that end in it account for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from flowprof.profiler.blame.chain import Step, deadlocked, follow
from flowprof.profiler.blame.events import ACQUIRE
from flowprof.profiler.blame.occupancy import blame
from flowprof.profiler.blame.pairing import RELEASED
from flowprof.profiler.blame.study import Study, View
from flowprof.profiler.blame.unwaited import MAX_PLACES, grown, growth_verdict, leaking, locks, tails, tiny, unreturned
from flowprof.profiler.blame.verdict import NOBODY, Verdict, confidence_of, sufferers, together, trusted, utilisation
from flowprof.profiler.blame.waits import OPEN
from flowprof.profiler.findings import Confidence, in_ms


def verdicts(study: Study) -> tuple[Verdict, ...]:
    """All of them, in order of blame."""
    limit = study.thresholds.of
    if study.events.span_ns < limit("trust", "least_span_ms") * 1e6:
        return ()
    found = [unreturned(study, verdict) or verdict for verdict in _contended(study) if verdict is not None]
    found += _roots(study, found)
    named = {verdict.resource for verdict in found}
    kept = {verdict.resource for verdict in found if verdict.pathology in ("leak", "unbounded growth")}
    for resource in range(len(study.events.resources)):
        if resource not in kept and trusted(study, resource):
            other = grown(study, resource) or leaking(study, resource)
            if other is None and resource not in named:
                other = tiny(study, resource)
            found += [other] if other else []
    named = {verdict.resource for verdict in found}
    found += [one for one in locks(study) if one.resource not in named]
    found += [one for one in tails(study) if one.resource not in named]
    return tuple(sorted(found, key=lambda verdict: -verdict.score))


def _contended(study: Study) -> list[Verdict | None]:
    share = study.thresholds.of("contention", "some_share")
    views = [study.view(place) for place in study.waited_places(share)[:MAX_PLACES]]
    told = [_told(study, view) for view in views]
    views = [_all_counted(study, view) if tell else view for view, tell in zip(views, told, strict=True)]
    return [
        _contention(study, view)
        for view, tell in zip(views, told, strict=True)
        if tell or (trusted(study, study.where(view.place).resource, view.place) and not _nobodys(study, view))
    ]


def _told(study: Study, view: View) -> bool:
    """Whether waits that say who has what they are for make up most of the waiting."""
    says = study.events.holder[view.waits.event] > 0
    return bool(2 * view.waits.ns[says].sum() > view.waits.ns.sum())


def _all_counted(study: Study, view: View) -> View:
    """Where waits say who has it all of them count: the kernel sees no acquire of who found the lock free."""
    seen = replace(view.seen, counts=view.seen.waiters > 0)
    return replace(view, seen=seen, blame=blame(study.events, view.held, view.waits, seen))


def _nobodys(study: Study, view: View) -> bool:
    """Whether nobody has it: the resource's waits say who has one, none here does, and nobody was seen to have it
    meanwhile, or nobody who got it gave it back. So are a thread's end, a signal that comes once, a timer; and a lock
    that is free, and takes as long as its probes."""
    if "holder" not in study.resource(view.place).events or (study.events.holder[view.waits.event] > 0).any():
        return False
    got = study.events.kind[view.held.acquire] == ACQUIRE
    return not (view.blame.seen_ns > 0 and bool((got & (view.held.how == RELEASED)).any()))


def _contention(study: Study, view: View) -> Verdict | None:
    limit, events = study.thresholds.of, study.events
    found = view.blame
    span_ns = int(events.spans_ns[study.where(view.place).resource])
    if found.some_ns < limit("contention", "some_share") * span_ns:
        return None
    if found.waiting_ns < limit("contention", "least_ms") * 1e6:
        return None
    resource = study.where(view.place).resource
    queued = events.resources[resource].kind == "queue"
    if queued and found.seen_ns < limit("contention", "queue_seen_share") * found.waiting_ns:
        return None  # whoever waits for work that nobody has is idle
    if study.held.handed[view.place]:
        return None  # what is waited for comes from others: those who had some before do not keep it
    held_up = found.by_actor
    holder = int(held_up.actor[0]) if len(held_up.actor) else None
    share = float(held_up.ns[0]) / found.seen_ns if len(held_up.ns) else 0.0
    turns = share < limit("contention", "dominant_share")
    least = limit("contention", "turn_share") * found.seen_ns
    holders = int((held_up.ns >= least).sum()) if turns else 1
    hold = -1
    of = np.flatnonzero((view.held.actor == holder) | turns) if holder is not None else np.empty(0, np.int64)
    if len(of):
        stacks = events.stack[view.held.acquire[of]]
        sums = np.bincount(stacks + 1, view.blame.by_hold[of])
        best = of[stacks + 1 == int(np.argmax(sums))]
        hold = int(view.held.acquire[best[int(np.argmax(view.blame.by_hold[best]))]])
    used = utilisation(study, resource, None if turns else holder, place=view.place)
    unused = used is not None and not turns and _hardly(study, view.place, holder, used)
    victims = sufferers(view, holder if holders == 1 else None)
    evidence = [
        f"at least one waited for {found.some_ns / span_ns * 100:.0f} % of {span_ns / 1e9:.3g} s, "
        f"{in_ms(found.waiting_ns)} in all",
    ]
    still = int(victims.open.sum())
    if still:
        evidence.append(f"{still} still waited when the recording ended: their waits count up to there")
    if found.seen_ns < limit("trust", "medium_seen_share") * found.waiting_ns:
        evidence.append(
            f"for {(1 - found.seen_ns / found.waiting_ns) * 100:.0f} % of the waiting no holder was seen: "
            "it had it before the recording, or its events were not probed"
        )
    if used is not None:
        evidence.append(f"utilisation {used:.2g} uses per acquire")
    if holder is not None and not turns:
        evidence += _waits_itself(study, view, holder)
    steps = follow(study, view.place, holder, found.seen_ns) if holder is not None and holders == 1 else ()
    circle = deadlocked(study, steps)
    if circle:
        each = ", ".join(f"{events.actors[one.holder].name} has {events.resources[one.resource].name}"
                         for one in circle if one.holder is not None)  # fmt: skip
        evidence.append(f"{each}; each waits for what the next one has, to the end of the recording")
    worst = int(np.argmax(found.by_wait)) if len(found.by_wait) else 0
    at = int(view.waits.start_ns[worst] + view.waits.ns[worst] // 2) if len(found.by_wait) else events.begin_ns
    return Verdict(
        "inefficient policy" if unused else "contention", view.place, resource, holder, share, holders, hold,
        found.waiting_ns, used, victims, steps,
        confidence_of(study, resource, found.seen_ns / found.waiting_ns, view.place), tuple(evidence), at,
        found.waiting_ns, deadlock=circle,
    )  # fmt: skip


def _hardly(study: Study, place: int, holder: int | None, used: float) -> bool:
    """Whether a holder's utilisation is low, by itself or beside that of all others."""
    limit = study.thresholds.of
    if used < limit("inefficient_policy", "utilisation"):
        return True
    others = utilisation(study, study.where(place).resource, holder, others=True, place=place)
    return others is not None and used < limit("inefficient_policy", "relative") * others


def _waits_itself(study: Study, view: View, holder: int) -> list[str]:
    """A sentence where the holder spends much of its longest hold here in waits for another resource."""
    mine = view.held.actor == holder
    held_ns = float((view.held.end_ns[mine] - view.held.start_ns[mine]).max(initial=0))
    others = np.flatnonzero((study.waits.actor == holder) & (study.waits.place != view.place))
    if not len(others):
        return []
    sums = np.bincount(study.waits.place[others], study.waits.ns[others])
    place = int(np.argmax(sums))
    if not held_ns or sums[place] < study.thresholds.of("chain", "itself_share") * held_ns:
        return []
    still = (study.waits.how[others] == OPEN)[study.waits.place[others] == place].any()
    end = ", still so at the end of the recording" if still else ""
    return [f"the holder itself waited for {study.resource(place).name}, {in_ms(float(sums[place]))}{end}"]


def _roots(study: Study, found: list[Verdict]) -> list[Verdict]:
    """Let resources at the end of chains answer for those that lead there; those that have no verdict yet get one."""
    by_place = {(one.place, one.resource): number for number, one in enumerate(found)}
    new: dict[tuple[int, int], Verdict] = {}
    for verdict in list(found):
        steps = [step for step in verdict.steps[1:] if step.holder is not None]
        if not steps:
            continue
        last = steps[-1]
        key = (last.place, last.resource)
        if key in by_place:
            root = found[by_place[key]]
            found[by_place[key]] = _answering(root, verdict)
            continue
        root = new.get(key) or _root(study, verdict, last)
        new[key] = _answering(root, verdict)
    return list(new.values())


def _answering(root: Verdict, for_: Verdict) -> Verdict:
    steps = for_.steps if len(for_.steps) > len(root.steps) else root.steps
    return replace(
        root, victims=together(root.victims, for_.victims, root.holder), steps=steps,
        score=root.score + for_.waiting_ns, waiting_ns=root.waiting_ns + for_.waiting_ns,
        root_of=(*root.root_of, for_.resource),
    )  # fmt: skip


def _root(study: Study, verdict: Verdict, last: Step) -> Verdict:
    """A verdict for the end of a chain that had none of its own."""
    confidence: Confidence = "low" if verdict.confidence == "low" else "medium"
    if last.growth is not None:
        return replace(growth_verdict(study, last.growth), confidence=confidence, score=1.0, waiting_ns=0.0)
    view = study.view(last.place)
    mine = np.flatnonzero(view.held.actor == last.holder)
    longest = mine[int(np.argmax(view.held.end_ns[mine] - view.held.start_ns[mine]))] if len(mine) else -1
    return Verdict(
        "contention", last.place, last.resource, last.holder, 1.0, 1,
        int(view.held.acquire[longest]) if longest >= 0 else -1, 0.0,
        utilisation(study, last.resource, last.holder, place=last.place), NOBODY, verdict.steps, confidence,
        ("only holders of other resources waited for it",), verdict.at_ns, 1.0,
    )  # fmt: skip
