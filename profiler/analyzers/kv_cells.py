"""Cells of the KV cache over time: which sequence (llama-server: slot) has how many, and when a batch found none free.

A sequence whose last token stood at position p has p + 1 cells; a prompt that begins anew begins at 0. What it gives
back is seen in builds that show it (table kv_event), as long as there is one cache: a draft model has another, and
whose cells are given back is not told then. Without, or while cells are shifted, they count until the next batch of
that sequence. Cells of sequences that were not computed in the recording are not known and not counted; tokens that
sequences of a shared cache have in common (several answers to one prompt) count for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from flowprof.profiler.analyzers.request_facts import Facts, Times
from flowprof.profiler.sections.requests import KvCache, KvPoint
from flowprof.profiler.store import Recording
from numpy.typing import NDArray

MAX_POINTS = 400
MAX_EVENTS = 1_000_000  # of a process, the first ones
CAPACITY_SQL = """
SELECT max(n.ne[2] * greatest(n.ne[3], 1))
FROM graph_node n JOIN graph g USING (graph_id) WHERE g.pid = ? AND n.leaf AND n.name LIKE 'cache\\_k\\_l%' ESCAPE '\\'
"""
FREED_SQL = f"""
SELECT at_ns, sequence, from_position, to_position FROM kv_event
WHERE pid = $pid AND what = 'freed'
AND (SELECT count(DISTINCT place) FROM kv_event WHERE pid = $pid AND what = 'freed') = 1
ORDER BY at_ns LIMIT {MAX_EVENTS}
"""
REFUSED_SQL = f"""
SELECT at_ns FROM kv_event WHERE pid = ? AND what = 'refused' AND place = ? ORDER BY at_ns LIMIT {MAX_EVENTS}
"""


@dataclass(frozen=True, slots=True)
class Cells:
    """What each sequence has, as it changes: `sequence` has `cells` from `at` on. In order of time."""

    at: Times
    sequence: NDArray[np.int64]
    cells: NDArray[np.int64]

    def changes(self) -> NDArray[np.int64]:
        """By how many the cells of the sequence change."""
        order = np.argsort(self.sequence, kind="stable")
        before = np.append(0, self.cells[order][:-1])[: len(order)]
        before[np.append(True, np.diff(self.sequence[order]) != 0)[: len(order)]] = 0
        change = np.zeros(len(order), np.int64)
        change[order] = self.cells[order] - before
        return change

    def of(self, sequence: int, at_ns: Times) -> NDArray[np.int64]:
        """What one sequence has at moments."""
        mine = np.flatnonzero(self.sequence == sequence)
        return np.append(0, self.cells[mine])[np.searchsorted(self.at[mine], at_ns, side="right")]


def cells(recording: Recording, facts: Facts) -> Cells:
    """Of one process."""
    batches = facts.batches
    mine = np.flatnonzero(batches.main)
    at, sequence = batches.at[batches.of[mine]], batches.sequence[mine]
    held = batches.position[mine] + batches.tokens[mine]
    freed = recording.columns(FREED_SQL, {"pid": facts.pid})
    if len(freed["at_ns"]):
        more = _freed(at, sequence, held, {name: np.asarray(column) for name, column in freed.items()})
        at, sequence, held = (np.concatenate(both) for both in zip((at, sequence, held), more, strict=True))
        order = np.argsort(at, kind="stable")
        at, sequence, held = at[order], sequence[order], held[order]
    return Cells(at, sequence, held)


def _freed(
    at: Times, sequence: NDArray[np.int64], held: NDArray[np.int64], freed: dict[str, NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """What sequences have after they gave cells back: the same three columns."""
    found: list[tuple[int, int, int]] = []
    for number in np.unique(sequence).tolist():
        mine = np.flatnonzero(sequence == number)
        times, sizes = at[mine], held[mine]
        own = np.flatnonzero((freed["sequence"] == number) | (freed["sequence"] < 0))
        before = np.searchsorted(times, freed["at_ns"][own], side="right") - 1
        now, since = 0, -1
        for event, batch in zip(own.tolist(), before.tolist(), strict=True):
            if batch < 0:
                continue
            if batch != since:
                now, since = int(sizes[batch]), batch
            first, to = max(int(freed["from_position"][event]), 0), int(freed["to_position"][event])
            left = now - max((now if to < 0 else min(to, now)) - first, 0)
            if left != now:
                now = left
                found.append((int(freed["at_ns"][event]), number, left))
    columns = np.array(found, np.int64).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


@dataclass(frozen=True, slots=True)
class Short:
    """Stretches in which no batch of the model found room, and the requests that waited in them: one row each."""

    times: int  # that a batch found none
    request: NDArray[np.int64]  # an index of Facts.task
    start_ns: Times
    end_ns: Times  # the next batch is computed, or it gives its slot back
    failed: NDArray[np.bool_]  # it gave its slot back before any batch was computed


def short(recording: Recording, facts: Facts) -> Short:
    """All requests that have a slot wait when a batch finds no room: there is one batch for all of them."""
    refused = np.asarray(recording.columns(REFUSED_SQL, [facts.pid, facts.batches.context])["at_ns"], np.int64)
    main = facts.batches.at[np.unique(facts.batches.of[facts.batches.main])]
    following = np.searchsorted(main, refused, side="right")
    starts = refused[np.append(True, following[1:] != following[:-1])[: len(refused)]]  # the first of each stretch
    ends = np.append(main, facts.until)[np.unique(following)]
    requests, until = facts.holds()
    first, last = (np.searchsorted(starts, edge) for edge in (facts.started[requests], until))
    many = np.maximum(last - first, 0)
    of = np.repeat(np.arange(len(requests)), many)
    stretch = np.arange(len(of)) - np.repeat(np.cumsum(many) - many - first, many)
    end = np.minimum(until[of], ends[stretch])
    failed = facts.released[requests[of]] < ends[stretch]
    return Short(len(refused), requests[of], starts[stretch], np.maximum(end, starts[stretch]), failed)


def kv_cache(recording: Recording, facts: Facts, found: Cells, start_ns: int) -> KvCache | None:
    """None where no batches were recorded."""
    if not len(found.at):
        return None
    ends = np.append(found.at[1:] != found.at[:-1], True)  # all parts of a batch come at one time
    at, total = found.at[ends], np.cumsum(found.changes())[ends]
    idle = np.minimum(_idle(found, facts)[ends], total)
    edges = np.unique(np.linspace(0, len(total), min(MAX_POINTS, len(total)) + 1).astype(int))
    highest = [int(a + np.argmax(total[a:b])) for a, b in pairwise(edges.tolist())]
    points = tuple(KvPoint(int(at[i]) - start_ns, int(total[i]), int(idle[i])) for i in highest)
    capacity = recording.rows(CAPACITY_SQL, [facts.pid])[0][0]
    return KvCache(facts.pid, points, int(total.max()), None if capacity is None else int(capacity))


def _idle(found: Cells, facts: Facts) -> NDArray[np.int64]:
    """After each change: cells of all slots that no request had then."""
    requests, until = facts.holds()
    idle = np.zeros(len(found.at), np.int64)
    for sequence in np.unique(found.sequence).tolist():
        own = facts.slot[requests] == sequence
        start, end = np.sort(facts.started[requests[own]]), np.sort(until[own])
        busy = np.searchsorted(start, found.at, side="right") > np.searchsorted(end, found.at, side="right")
        idle += np.where(busy, 0, found.of(sequence, found.at))
    return idle
