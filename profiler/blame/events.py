"""The events of resources as arrays, in order of time, with dense numbers for places, threads and tasks.

A *place* is one instance of a resource. Processes of one family (one started by another that was recorded, or siblings
of one program) share the places of a resource that is `shared`, siblings where the instance is not 0: equal addresses
in the memory that they share. An *actor* is who waits or holds: the task where the event names one (a request, a
transaction), else the thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from flowprof.profiler.store import Recording, read_sql
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Small = NDArray[np.int32]
Bools = NDArray[np.bool_]

WAIT, ACQUIRE, USE, RELEASE, GIVE_UP = range(5)
MAX_EVENTS = 40_000_000  # beyond them the first are analysed: some 150 bytes of memory each
AT_ONCE = 1_000_000  # events read
BINS = 4096  # of time, to find parts with so many
_LAST_NS = 4 * 10**18
_SPAN_SQL = """
SELECT (SELECT min(start_ns) FROM probe_window), (SELECT max(end_ns) FROM probe_window),
       min(at_ns), max(at_ns), count(*) FROM resource_event WHERE at_ns BETWEEN 0 AND $last
"""
_BINS_SQL = """
SELECT (at_ns - $begin) // $width AS bin, count(*) FROM resource_event WHERE at_ns BETWEEN $begin AND $last
GROUP BY bin ORDER BY bin
"""
_ALIKE_SQL = "SELECT stack_id, first_id FROM equal_stack WHERE stack_id <> first_id ORDER BY stack_id"
_THREADS_SQL = "SELECT tid FROM thread WHERE tid > 0 UNION SELECT tid FROM resource_event WHERE tid > 0"

Who = tuple[int | None, int | None, int | None, int | None, int | None]  # resource_id, pid, instance, tid, task


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
    actors: tuple[Actor, ...]
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

    @property
    def resource(self) -> Small:
        """Of every place its resource, as an array."""
        return np.array([place.resource for place in self.places], np.int32)


def read(recording: Recording) -> Events:
    """All events of all resources."""
    known = _resources(recording)
    first, last, begin, end, count = recording.rows(_SPAN_SQL, {"last": _LAST_NS})[0]
    stopped = recording.meta().get("stopped_ns", "")
    ends = [int(one) for one in (last, end, stopped if stopped.isdecimal() else None) if one is not None]
    begins = [int(one) for one in (first, begin) if one is not None]
    until = _LAST_NS
    if count > MAX_EVENTS:
        rows = recording.rows(f"SELECT at_ns FROM resource_event ORDER BY at_ns LIMIT 1 OFFSET {MAX_EVENTS}")
        until = int(rows[0][0])
        ends = [until]
    columns, who = _columns(recording, int(begin or 0), min(until, int(end or 0)))
    if len(columns["at_ns"]) > 1 and (np.diff(columns["at_ns"]) <= 0).any():
        order = _in_time(columns["at_ns"], columns["kind"])
        for name in columns:
            columns[name] = columns[name][order]
    _as_known(recording, columns)
    places, actors, numbers = _who(recording, known, who)
    number = columns.pop("number")
    place, of_actor, of_thread = (column[number] for column in numbers)
    foreign = np.array([place.resource < 0 for place in places], bool)
    if foreign.any():  # of resources that no row describes
        kept = ~foreign[place]
        columns = {name: column[kept] for name, column in columns.items()}
        place, of_actor, of_thread = place[kept], of_actor[kept], of_thread[kept]
    return Events(
        at_ns=columns["at_ns"], kind=columns["kind"], place=place, actor=of_actor, thread=of_thread,
        has_unit=columns["has_unit"], unit=columns["unit"], units=columns["units"], stack=columns["stack"],
        holder=columns["holder"], resources=known, places=places, actors=actors,
        begin_ns=min(begins, default=0), end_ns=max(ends, default=0), cut=max(0, int(count) - MAX_EVENTS),
    )  # fmt: skip


def _columns(recording: Recording, begin: int, last: int) -> tuple[dict[str, NDArray[Any]], list[Who]]:
    """The columns of resource_events.sql, read part by part, and what its numbers stand for."""
    numbers: dict[Who, int] = {}
    parts: list[dict[str, NDArray[Any]]] = []
    spans = [(False, *span) for span in _parts(recording, begin, last)]
    for spelled, first, following in (*spans, (True, begin, last + 1)):
        span = {"first": first, "next": following, "spelled": spelled}
        rows = recording.rows(read_sql("resource_actors.sql"), span)
        columns = recording.columns(read_sql("resource_events.sql"), span)
        part = {name: np.ma.getdata(column) for name, column in columns.items()}
        part["number"] = np.array([numbers.setdefault(row, len(numbers)) for row in rows], np.int32)[part["number"]]
        parts.append(part)
    try:
        order = sorted(numbers)
    except TypeError:  # there is None among them
        order = sorted(numbers, key=lambda row: [(value is None, value or 0) for value in row])
    place = np.empty(len(order), np.int32)
    place[[numbers[row] for row in order]] = np.arange(len(order))
    whole = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    whole["number"] = place[whole["number"]]
    return whole, order


def _parts(recording: Recording, begin: int, last: int) -> Iterator[tuple[int, int]]:
    """Times from … until before, with AT_ONCE events or so in each."""
    width = (last - begin) // BINS + 1
    counts = recording.rows(_BINS_SQL, {"begin": begin, "last": last, "width": width})
    first, size = begin, 0
    for number, count in counts:
        if size and size + count > AT_ONCE:
            yield first, begin + number * width
            first, size = begin + number * width, 0
        size += count
    if size:
        yield first, last + 1


def _as_known(recording: Recording, columns: dict[str, NDArray[Any]]) -> None:
    """Equal stacks get one number. A word that is taken for an owner names a thread, or means something else: 0."""
    alike = np.array(recording.rows(_ALIKE_SQL), np.int64).reshape(-1, 2)
    if len(alike):
        stack = columns["stack"]
        at = np.minimum(np.searchsorted(alike[:, 0], stack), len(alike) - 1)
        columns["stack"] = np.where(alike[at, 0] == stack, alike[at, 1], stack).astype(np.int32)
    holder = columns["holder"]
    if holder.any():
        threads = [tid for (tid,) in recording.rows(_THREADS_SQL)]
        columns["holder"] = np.where(np.isin(holder, threads), holder, np.int32(0))


def _in_time(at_ns: Ints, kind: NDArray[np.int8]) -> Ints:
    """The order of events: by time, those of one moment from wait to give-up."""
    since = at_ns - at_ns.min()
    if since.max() < 1 << 59:
        return np.argsort(since * 8 + kind, kind="stable")
    return np.lexsort((kind, at_ns))


def _resources(recording: Recording) -> tuple[Resource, ...]:
    rows = recording.rows(
        "SELECT resource_id, coalesce(manifest, ''), coalesce(r.name, ''), coalesce(kind, ''), "
        "coalesce(capacity, read.value), coalesce(about, ''), coalesce(events, ''), coalesce(shared, true), until_ns "
        "FROM resource r LEFT JOIN (SELECT v.resource_id, max(s.value)::BIGINT AS value FROM variable v "
        "JOIN variable_sample s USING (variable_id) WHERE v.name = 'capacity' AND s.value < 1e15 GROUP BY ALL) read "
        "USING (resource_id) ORDER BY resource_id"
    )
    return tuple(
        Resource(number, manifest, name or f"resource {number}", kind, capacity if capacity and capacity > 0 else None,
                 about, frozenset(filter(None, events.split(","))), shared, until_ns)
        for number, manifest, name, kind, capacity, about, events, shared, until_ns in rows
    )  # fmt: skip


def _families(recording: Recording) -> dict[int, tuple[int, bool]]:
    """pid → (its family's process, whether it was recorded as an ancestor)."""
    rows = recording.rows("SELECT pid, ppid, coalesce(exe, '') FROM process WHERE pid IS NOT NULL")
    parents = {pid: ppid for pid, ppid, _ in rows}
    siblings: dict[tuple[int | None, str], int] = {}
    found = {}
    for pid, ppid, exe in rows:
        root, seen = pid, {pid}
        while parents.get(root) in parents and parents[root] not in seen:
            root = parents[root]
            seen.add(root)
        if root == pid and ppid and ppid > 1 and exe:
            root = siblings.setdefault((ppid, exe), pid)
            found[pid] = (root, False)
        else:
            found[pid] = (root, True)
    return found


def _who(
    recording: Recording, known: tuple[Resource, ...], who: list[Who]
) -> tuple[tuple[Place, ...], tuple[Actor, ...], tuple[Small, Small, Small]]:
    """All places and actors; and of everyone in `who` its place, its actor and its thread."""
    family = _families(recording)
    position = {resource.resource_id: number for number, resource in enumerate(known)}
    named = recording.rows("SELECT pid, tid, any_value(comm) FROM thread GROUP BY pid, tid")
    comms = {(pid, tid): comm or "" for pid, tid, comm in named}
    places: dict[Place, int] = {}
    actors: list[Actor] = []
    threads: dict[tuple[int, int], int] = {}
    tasks: dict[tuple[int, int], int] = {}
    spots: dict[tuple[int | None, ...], tuple[int, int, int]] = {}  # all but the task → place, thread, family
    numbers: tuple[list[int], list[int], list[int]] = ([], [], [])
    to_place, to_actor, to_thread = (column.append for column in numbers)
    for resource_id, pid, instance, tid, task in who:  # with a task for each request: millions of them
        spot = spots.get((resource_id, pid, instance, tid))
        if spot is None:
            key = (resource_id, pid, instance, tid)
            pid, instance, tid = pid or 0, instance or 0, tid or 0
            resource = -1 if resource_id is None else position.get(resource_id, -1)
            root, sure = family.get(pid, (pid, True)) if resource < 0 or known[resource].shared else (pid, True)
            place = Place(resource, root if sure or instance else pid, instance)
            if (pid, tid) not in threads:
                threads[pid, tid] = len(actors)
                actors.append(Actor(pid, tid, None, comms.get((pid, tid), "")))
            spot = spots[key] = (places.setdefault(place, len(places)), threads[pid, tid], root)
        actor = spot[1]
        if task is not None:
            actor = tasks.setdefault((spot[2], task), len(actors))
            if actor == len(actors):
                actors.append(Actor(spot[2], 0, task, ""))
        to_place(spot[0])
        to_actor(actor)
        to_thread(spot[1])
    seen = {tid for _, tid in threads}
    holders = (
        "SELECT any_value(pid), holder FROM resource_event WHERE holder IN (SELECT tid FROM thread) GROUP BY holder"
    )
    for pid, tid in recording.rows(holders):
        if tid not in seen:  # it made no event itself
            of = next((key for key in comms if key[1] == tid), (pid or 0, tid))
            actors.append(Actor(of[0], tid, None, comms.get(of, "")))
    return tuple(places), tuple(actors), _small(numbers)


def _small(numbers: tuple[list[int], list[int], list[int]]) -> tuple[Small, Small, Small]:
    place, actor, thread = (np.array(column, np.int32) for column in numbers)
    return place, actor, thread
