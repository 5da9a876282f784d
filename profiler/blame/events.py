"""The events of resources as arrays, in order of time, with dense numbers for places, threads and tasks.

A *place* is one instance of a resource. Processes of one family (one started by another that was recorded, or siblings
of one program) share the places of a resource that is `shared`, siblings where the instance is not 0: equal addresses
in the memory that they share. An *actor* is who waits or holds: the task where the event names one (a request, a
transaction), else the thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Small = NDArray[np.int32]
Bools = NDArray[np.bool_]

KINDS = 5
WAIT, ACQUIRE, USE, RELEASE, GIVE_UP = range(KINDS)


@dataclass(frozen=True, slots=True)
class Resource:
    """As its manifest calls it. events: the kinds that could be seen, `holder` where waits tell it; empty: unknown.

    until_ns: since then its events were not recorded; None: they were until the end.
    """

    resource_id: int
    manifest: str
    name: str
    kind: str
    capacity: int | None
    about: str
    events: frozenset[str]
    shared: bool
    until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """One instance of a resource. resource: position in `Events.resources`."""

    resource: int
    pid: int
    instance: int


@dataclass(frozen=True, slots=True)
class Actor:
    """A thread, or a task (then tid is 0: threads differ)."""

    pid: int
    tid: int
    task: int | None
    comm: str

    @property
    def name(self) -> str:
        if self.task is not None:
            return f"task {self.task}"
        return f"{self.comm} ({self.tid})" if self.comm else f"thread {self.tid}"


@dataclass(frozen=True, slots=True)
class Actors:
    """By number: threads, then tasks, of which there may be millions: each is made when it is asked for."""

    threads: tuple[Actor, ...]
    pids: Small  # of the tasks
    tasks: Ints

    def __len__(self) -> int:
        return len(self.threads) + len(self.tasks)

    def __getitem__(self, number: int) -> Actor:
        if number < len(self.threads):
            return self.threads[number]
        task = number - len(self.threads)
        return Actor(int(self.pids[task]), 0, int(self.tasks[task]), "")

    @property
    def tid(self) -> Ints:
        """Of every one the thread, 0: a task."""
        found = np.zeros(len(self), np.int64)
        found[: len(self.threads)] = [actor.tid for actor in self.threads]
        return found


@dataclass(frozen=True, slots=True)
class Events:
    """One row per event; positions in `places`, `actors`; stack -1: none; holder: a thread's id, 0: not told."""

    at_ns: Ints
    kind: NDArray[np.int8]
    place: Small
    actor: Small
    thread: Small  # the actor that is the thread itself
    has_unit: Bools
    unit: Ints
    units: Ints
    stack: Small
    holder: Small
    resources: tuple[Resource, ...]
    places: tuple[Place, ...]
    resource: Small  # of every place
    actors: Actors
    begin_ns: int  # of what was observed
    end_ns: int
    cut: int  # events beyond MAX_EVENTS, left out

    @property
    def span_ns(self) -> int:
        return max(self.end_ns - self.begin_ns, 1)

    @property
    def ends_ns(self) -> Ints:
        """Of every resource until when it was observed."""
        ends = (self.end_ns if one.until_ns is None else one.until_ns for one in self.resources)
        return np.clip(np.fromiter(ends, np.int64, len(self.resources)), self.begin_ns, self.end_ns)

    @property
    def spans_ns(self) -> Ints:
        """Of every resource for how long."""
        return np.maximum(self.ends_ns - self.begin_ns, 1)

    def until_ns(self, rows: Ints) -> Ints:
        """Of every event in `rows` until when its resource was observed."""
        found: Ints = self.ends_ns[self.resource[self.place[rows]]] if len(rows) else rows
        return found
