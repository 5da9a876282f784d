"""What a verdict is, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from flowprof.profiler.blame.chain import Step
from flowprof.profiler.blame.events import ACQUIRE, USE, Bools
from flowprof.profiler.blame.study import Study, View
from flowprof.profiler.blame.waits import OPEN
from flowprof.profiler.findings import Confidence


@dataclass(frozen=True, slots=True)
class Suffering:
    """One actor's waiting that counts."""

    actor: int
    waiting_ns: float
    waits: int
    longest_ns: float
    open: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """place -1: the resource as a whole. holders: so many take turns, 1: one. event: its acquire, -1: not known."""

    pathology: str
    place: int
    resource: int
    holder: int | None
    share: float  # of what is blamed, that is this holder's
    holders: int
    event: int
    waiting_ns: float
    utilisation: float | None
    victims: tuple[Suffering, ...]
    steps: tuple[Step, ...]
    confidence: Confidence
    evidence: tuple[str, ...]
    at_ns: int  # the moment at which it shows best
    score: float = 0.0
    root_of: tuple[int, ...] = field(default=())  # resources whose chains end here
    deadlock: tuple[Step, ...] = ()  # the steps of a circle that nobody left


def sufferers(view: View, holder: int | None) -> tuple[Suffering, ...]:
    """Who waited at a place, the most first; not who is blamed."""
    ns, actors = view.blame.by_wait, view.waits.actor
    sums = np.bincount(actors, ns) if len(actors) else np.empty(0)
    times = np.bincount(actors[ns > 0], minlength=len(sums))
    still = np.bincount(actors[view.waits.how == OPEN], minlength=len(sums)) > 0
    longest = np.zeros(len(sums))
    np.maximum.at(longest, actors, ns)
    ranked = np.argsort(-sums, kind="stable")
    ranked = ranked[(sums[ranked] > 0) & (ranked != (-1 if holder is None else holder))]
    columns = (ranked, sums[ranked], times[ranked], longest[ranked], still[ranked])
    return tuple(Suffering(*row) for row in zip(*(column.tolist() for column in columns), strict=True))


def utilisation(study: Study, resource: int, actor: int | None, others: bool = False, place: int = -1) -> float | None:
    """#USE / #ACQUIRE, of one actor, of all others, or of all; None where uses cannot be seen.

    Of one place only, where uses tell which; -1: of all.
    """
    events = study.events
    of = events.resource[events.place] == resource
    uses = of & (events.kind == USE)
    declared = events.resources[resource].events
    if ("use" not in declared) if declared else not uses.any():
        return None
    if place >= 0 and _uses_tell_places(study, uses, of & (events.kind == ACQUIRE)):
        of = events.place == place
        uses = of & (events.kind == USE)
    mine = of if actor is None else of & ((events.actor == actor) != others)
    acquires = int((mine & (events.kind == ACQUIRE)).sum())
    return float((uses & mine).sum() / acquires) if acquires else None


def _uses_tell_places(study: Study, uses: Bools, acquires: Bools) -> bool:
    """Whether any place that is acquired is used, too: a manifest may tell the instance of acquires only."""
    used = np.bincount(study.events.place[uses], minlength=len(study.events.places)) > 0
    return not uses.any() or bool(used[study.events.place[acquires]].any())


def trusted(study: Study, resource: int, place: int = -1) -> bool:
    """Whether few events contradict each other: those of one place, -1: of the whole resource."""
    return bool(_broken(study, resource, place) <= study.thresholds.of("trust", "broken_share"))


def _broken(study: Study, resource: int, place: int) -> float:
    return float(study.held.broken_at[place] if place >= 0 else study.held.broken[resource])


def confidence_of(study: Study, resource: int, seen: float, place: int = -1) -> Confidence:
    """seen: share of the waiting for which a holder is known."""
    broken = _broken(study, resource, place)
    limit = study.thresholds.of
    if broken <= limit("trust", "high_broken") and seen >= limit("trust", "high_seen_share"):
        return "high"
    sure = broken <= limit("trust", "medium_broken") and seen >= limit("trust", "medium_seen_share")
    return "medium" if sure else "low"
