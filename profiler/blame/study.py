"""One recording's events, holds and waits, and what each place of interest looked like (made once, when asked for)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from flowprof.profiler.blame.events import RELEASE, Events, Ints, Place, Resource
from flowprof.profiler.blame.holds import Holds, holds
from flowprof.profiler.blame.occupancy import Blame, Occupancy, blame, occupancy
from flowprof.profiler.blame.thresholds import Thresholds
from flowprof.profiler.blame.waits import Waits, waits


@dataclass(frozen=True, slots=True)
class View:
    """A place: its holds and waits (by start), its occupancy, and whom its waits are the fault of."""

    place: int
    held: Holds
    waits: Waits
    seen: Occupancy
    blame: Blame


@dataclass(slots=True)
class Study:
    """What the verdicts are made from."""

    events: Events
    held: Holds
    waits: Waits
    thresholds: Thresholds
    _views: dict[int, View] = field(default_factory=dict)
    _order: dict[str, tuple[Ints, Ints]] = field(default_factory=dict)

    def resource(self, place: int) -> Resource:
        return self.events.resources[self.events.places[place].resource]

    def where(self, place: int) -> Place:
        return self.events.places[place]

    def view(self, place: int) -> View:
        if place not in self._views:
            held = self.held.of(self._rows("held", self.held.place, place))
            waited = self.waits.of(self._rows("waits", self.waits.place, place))
            resource = self.resource(place)
            lossy = bool(self.held.broken_at[place] > self.thresholds.of("trust", "lossy_share"))
            doubtful = lossy or not self.is_released(place)
            full = self.thresholds.figures["contention"].get(f"full_{resource.kind}_share", 0.0)
            seen = occupancy(held, waited, resource.kind, resource.capacity, full, doubtful)
            self._views[place] = View(place, held, waited, seen, blame(self.events, held, waited, seen))
        return self._views[place]

    def waited_places(self, share: float) -> list[int]:
        """Places with at least so much waiting, as a share of the time that they were observed; the most first."""
        sums = np.bincount(self.waits.place, self.waits.ns, minlength=len(self.events.places))
        enough = sums >= np.maximum(share * self.events.spans_ns[self.events.resource], 1)
        found: list[int] = [int(place) for place in np.argsort(-sums, kind="stable") if enough[place]]
        return found

    def is_released(self, place: int) -> bool:
        """Whether releases of the resource can be seen: what is only waited for (a condition, a signal) has none."""
        resource = self.where(place).resource
        if self.events.resources[resource].events:
            return "release" in self.events.resources[resource].events
        released = self.events.place[self.events.kind == RELEASE]
        return bool((self.events.resource[released] == resource).any())

    def is_lossy(self, resource: int) -> bool:
        """Whether so many of its events have no partner that the others are doubted."""
        return bool(self.held.broken[resource] > self.thresholds.of("trust", "lossy_share"))

    def threads_of(self, actor: int) -> Ints:
        """The actor's own number, and those of the threads that worked for it."""
        found: Ints = np.union1d(self.events.thread[self.events.actor == actor], [actor])
        return found

    def in_the_way_of(self, waiter: int, place: int, begin_ns: int = 0, end_ns: int = 1 << 62) -> int | None:
        """The actor to blame most for an actor's waits for a place within a time; None: none was seen to have it."""
        view = self.view(place)
        theirs = np.isin(view.waits.actor, self.threads_of(waiter))
        theirs &= (view.waits.start_ns < end_ns) & (view.waits.end_ns > begin_ns)
        found = blame(self.events, view.held, view.waits.of(theirs), view.seen).by_actor.actor
        return next((int(actor) for actor in found[:2] if actor != waiter), None)

    def _rows(self, name: str, places: np.typing.NDArray[np.int32], place: int) -> Ints:
        """Positions of a place's rows, in their order."""
        if name not in self._order:
            order = np.argsort(places, kind="stable")
            self._order[name] = (order, np.searchsorted(places[order], np.arange(len(self.events.places) + 1)))
        order, begins = self._order[name]
        rows: Ints = order[begins[place] : begins[place + 1]]
        return rows


def study(events: Events, thresholds: Thresholds) -> Study:
    """Pair everything."""
    held = holds(events, thresholds)
    return Study(events, held, waits(events, held, thresholds.of("trust", "lossy_share")), thresholds)
