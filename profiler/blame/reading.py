"""The events of resources from a recording, as arrays. Who and where they are of becomes numbers in bulk: with a task
for each request there may be millions of actors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from flowprof.profiler.blame.events import Actor, Actors, Events, Place, Resource, Small
from flowprof.profiler.blame.keys import distinct, numbered
from flowprof.profiler.store import Recording, read_sql
from numpy.typing import NDArray

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
_HOLDERS_SQL = """
SELECT any_value(pid), holder FROM resource_event WHERE holder IN (SELECT tid FROM thread)
GROUP BY holder ORDER BY holder
"""

Columns = dict[str, NDArray[Any]]
_WHO = ("resource_id", "pid", "instance", "tid", "has_task", "task")  # of resource_events.sql


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
    _put_in_order(columns)
    _as_known(recording, columns)
    places, actors, numbers = _who(recording, known, who)
    number = columns.pop("number")
    place, of_actor, of_thread = (column[number] for column in numbers)
    return Events(
        at_ns=columns["at_ns"], kind=columns["kind"], place=place, actor=of_actor, thread=of_thread,
        has_unit=columns["has_unit"], unit=columns["unit"], units=columns["units"], stack=columns["stack"],
        holder=columns["holder"], resources=known, places=places,
        resource=np.array([place.resource for place in places], np.int32), actors=actors,
        begin_ns=min(begins, default=0), end_ns=max(ends, default=0), cut=max(0, int(count) - MAX_EVENTS),
    )  # fmt: skip


def _columns(recording: Recording, begin: int, last: int) -> tuple[Columns, Columns]:
    """The columns of resource_events.sql, read part by part; of `_WHO` a number, and what the numbers stand for."""
    parts: list[Columns] = []
    who: list[Columns] = []
    spans = [(False, *span) for span in _parts(recording, begin, last)]
    for spelled, first, following in (*spans, (True, begin, last + 1)):
        span = {"first": first, "next": following, "spelled": spelled}
        columns = recording.columns(read_sql("resource_events.sql"), span)
        part = {name: np.ma.getdata(column) for name, column in columns.items()}
        all_of = {name: part.pop(name) for name in _WHO}
        rows, part["number"] = distinct(*all_of.values())
        part["number"] += sum(len(one["pid"]) for one in who)
        _put_in_order(part)  # the whole then mostly is
        who.append({name: column[rows] for name, column in all_of.items()})
        parts.append(part)
    return _joined(parts), _joined(who)


def _joined(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}


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


def _as_known(recording: Recording, columns: Columns) -> None:
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


def _put_in_order(columns: Columns) -> None:
    """By time, those of one moment from wait to give-up."""
    at_ns, kind = columns["at_ns"], columns["kind"]
    if len(at_ns) < 2 or (np.diff(at_ns) > 0).all():
        return
    since = at_ns - at_ns.min()
    within = since.max() < 1 << 59
    order = np.argsort(since * 8 + kind, kind="stable") if within else np.lexsort((kind, at_ns))
    for name in columns:
        columns[name] = columns[name][order]


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
    recording: Recording, known: tuple[Resource, ...], who: Columns
) -> tuple[tuple[Place, ...], Actors, tuple[Small, Small, Small]]:
    """All places and actors; and of everyone in `who` its place, its actor and its thread."""
    family = _families(recording)
    position = {resource.resource_id: number for number, resource in enumerate(known)}
    named = recording.rows("SELECT pid, tid, any_value(comm) FROM thread GROUP BY pid, tid")
    comms = {(pid, tid): comm or "" for pid, tid, comm in named}
    places: dict[Place, int] = {}
    threads: dict[tuple[int, int], int] = {}
    spot, of = numbered(*(who[name] for name in _WHO[:4]))  # all but the task
    rows = zip(*(who[name][spot].tolist() for name in _WHO[:4]), strict=True)
    spots: list[tuple[int, int, int]] = []  # place, thread, family
    for resource_id, pid, instance, tid in rows:
        resource = position[resource_id]
        root, sure = family.get(pid, (pid, True)) if known[resource].shared else (pid, True)
        place = Place(resource, root if sure or instance else pid, instance)
        thread = threads.setdefault((pid, tid), len(threads))
        spots.append((places.setdefault(place, len(places)), thread, root))
    actors = [Actor(pid, tid, None, comms.get((pid, tid), "")) for pid, tid in threads]
    actors += _silent_holders(recording, comms, {tid for _, tid in threads})
    at, thread_of, root_of = np.array(spots, np.int32).reshape(-1, 3)[of].T
    mine = np.flatnonzero(who["has_task"])
    task, number = numbered(root_of[mine], who["task"][mine])
    actor_of = thread_of.copy()
    actor_of[mine] = number + len(actors)
    pids, tasks = root_of[mine][task], who["task"][mine][task]
    return tuple(places), Actors(tuple(actors), pids, tasks), (at, actor_of, thread_of)


def _silent_holders(recording: Recording, comms: dict[tuple[int, int], str], seen: set[int]) -> list[Actor]:
    """Threads that waits name as holders, and that made no event themselves."""
    found = []
    for pid, tid in recording.rows(_HOLDERS_SQL):
        if tid not in seen:
            of = next((key for key in comms if key[1] == tid), (pid or 0, tid))
            found.append(Actor(of[0], tid, None, comms.get(of, "")))
    return found
