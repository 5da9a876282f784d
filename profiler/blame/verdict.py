"""What a verdict is, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from flowprof.profiler.blame.chain import Step
from flowprof.profiler.blame.events import ACQUIRE, USE, Bools, Ints, Small
from flowprof.profiler.blame.occupancy import Floats
from flowprof.profiler.blame.study import Study, View
from flowprof.profiler.blame.waits import OPEN
from flowprof.profiler.findings import Confidence


@dataclass(frozen=True, slots=True)
class Victims:
    """Whose waiting counts: one row an actor, who waited most first. open: still waiting at the end."""

    actor: Small
    waiting_ns: Floats
    waits: Ints
    longest_ns: Floats
    open: Bools

    def __len__(self) -> int:
        return len(self.actor)

    def without(self, actor: int | None) -> Victims:
        """All but one."""
        kept = self.actor != (-1 if actor is None else actor)
        return Victims(
            self.actor[kept], self.waiting_ns[kept], self.waits[kept], self.longest_ns[kept], self.open[kept]
        )


NOBODY = Victims(
    np.empty(0, np.int32), np.empty(0), np.empty(0, np.int64), np.empty(0), np.empty(0, bool)
)  # fmt: skip


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
    victims: Victims
    steps: tuple[Step, ...]
    confidence: Confidence
    evidence: tuple[str, ...]
    at_ns: int  # the moment at which it shows best
    score: float = 0.0
    root_of: tuple[int, ...] = field(default=())  # resources whose chains end here
    deadlock: tuple[Step, ...] = ()  # the steps of a circle that nobody left


def sufferers(view: View, holder: int | None) -> Victims:
    """Who waited at a place; not who is blamed."""
    ns = view.blame.by_wait
    times = (ns > 0).astype(np.int64)
    return _added_up(view.waits.actor, ns, times, ns, view.waits.how == OPEN).without(holder)


def together(one: Victims, other: Victims, but: int | None) -> Victims:
    """Who suffers at one of two places or at both, but for one actor."""
    pairs = (np.concatenate((getattr(one, name), getattr(other, name))) for name in Victims.__slots__)
    return _added_up(*pairs).without(but)


def _added_up(actor: Small, waiting_ns: Floats, waits: Ints, longest_ns: Floats, open_: Bools) -> Victims:
    """By actor."""
    who, at = np.unique(actor, return_inverse=True)
    many = len(who)
    sums, times, still = (np.bincount(at, one, many).astype(np.float64) for one in (waiting_ns, waits, open_))
    longest = np.zeros(many)
    np.maximum.at(longest, at, longest_ns)
    order = np.argsort(-sums, kind="stable")
    order = order[sums[order] > 0]
    return Victims(who[order], sums[order], times[order].astype(np.int64), longest[order], still[order] > 0)


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
