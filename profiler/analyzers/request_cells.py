"""The cells of the KV cache as a resource: whose tokens have them when a batch finds no room. Part of requests.py.

A batch that finds no room is tried again by the server with fewer tokens and with the cells of idle slots; when not one
token finds room, the requests that have slots end with an error. All of them wait meanwhile. Who has the cells is told
by what each had at those moments, weighted by the waiting; a slot that is idle counts as the last request's that had
it. Fires when a request ended so, or from 10 ms and 5 % of the waiting requests' time on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.analyzers.kv_cells import Cells, Short
from flowprof.profiler.analyzers.request_blame import Who, blamed, is_worth, lanes, named, victim
from flowprof.profiler.analyzers.request_facts import Facts
from flowprof.profiler.analyzers.request_scene import Scene, cells_seen
from flowprof.profiler.blame.thresholds import Thresholds
from flowprof.profiler.findings import Finding, in_ms
from flowprof.profiler.sections.requests import RequestRow
from flowprof.profiler.sections.resources import Blamed, Victim

MAX_STRETCHES = 1_000  # in which it is asked who has the cells; the longest ones
MORE_CELLS = (
    "More cells (--ctx-size, which the slots of a unified cache share), fewer slots (--parallel), or limits to prompts "
    "and answers (n_predict) so that what all slots may need fits."
)


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Batches of a process that found no room. Requests as indexes of Requests.rows."""

    times: int  # that a batch found none
    waited: dict[int, list[int]]  # the waits of each request, ns
    failed: tuple[int, ...]  # ended by it, without their answer
    has: dict[int, float]  # cells of each when a batch found no room: means, by the waiting
    in_use: float  # all cells in use, likewise
    capacity: int | None


def no_room(facts: Facts, kv: Cells, short: Short, capacity: int | None, first: int) -> NoRoom | None:
    """None where every batch found room. first: where the requests of the process begin in Requests.rows."""
    if not len(short.request):
        return None
    took = short.end_ns - short.start_ns
    waited: dict[int, list[int]] = {}
    for request, ns in zip((short.request + first).tolist(), took.tolist(), strict=True):
        waited.setdefault(request, []).append(ns)
    starts, which = np.unique(short.start_ns, return_inverse=True)
    weight = np.bincount(which, np.maximum(took, 1))
    asked = np.argsort(-weight, kind="stable")[:MAX_STRETCHES]
    share = weight[asked] / weight[asked].sum()
    has: Counter[int] = Counter()
    in_use = 0.0
    for sequence in np.unique(kv.sequence).tolist():
        held = kv.of(sequence, starts[asked]) * share
        in_use += float(held.sum())
        whose = facts.last_on_slot(np.full(len(asked), sequence), starts[asked])
        for request, cells in zip(whose.tolist(), held.tolist(), strict=True):
            if request >= 0 and cells:
                has[request + first] += cells
    failed = tuple(sorted(set((short.request[short.failed] + first).tolist())))
    return NoRoom(short.times, waited, failed, dict(has), in_use, capacity)


def worth(found: Sequence[NoRoom], rows: Sequence[RequestRow], limits: Thresholds) -> tuple[NoRoom, ...]:
    """Those of all processes that cost enough."""
    return tuple(one for one in found if one.failed or _costs(one, rows, limits))


def _costs(found: NoRoom, rows: Sequence[RequestRow], limits: Thresholds) -> bool:
    lasted = sum((rows[request].prefill_ns or 0) + (rows[request].decode_ns or 0) for request in found.waited)
    return is_worth(_total(found), lasted, limits)


def _total(found: NoRoom) -> int:
    return sum(map(sum, found.waited.values()))


def cells(found: NoRoom, rows: Sequence[RequestRow], scene: Scene, limits: Thresholds) -> Blamed:
    """The cache as a resource that the request with most of its cells has."""
    ranked = sorted(found.has, key=lambda request: -found.has[request])
    victims = sorted(found.waited, key=lambda request: (request not in found.failed, -sum(found.waited[request])))
    own = rows[ranked[0]] if ranked else None
    all_of_them = sum(found.has.values())
    return blamed(
        "KV cells", _who(own) if own else None, found.has[ranked[0]] / all_of_them if ranked else 0.0, len(ranked),
        [_victim(rows[request], found.waited[request]) for request in victims],
        (own.prefill_ns or 0) + (own.decode_ns or 0) if own else 0, "high", _evidence(found, rows, ranked), MORE_CELLS,
        cells_seen(scene, lanes([_who(rows[request]) for request in ranked], rows)), limits, found.capacity,
    )  # fmt: skip


def _victim(row: RequestRow, waits: Sequence[int]) -> Victim:
    return victim(row, sum(waits), len(waits), max(waits), False)


def _who(row: RequestRow) -> Who:
    return row.pid, row.task_id, row.slot


def _evidence(found: NoRoom, rows: Sequence[RequestRow], ranked: Sequence[int]) -> tuple[str, ...]:
    of = f" of {found.capacity}" if found.capacity else ""
    largest = ", ".join(f"{named(rows[i].task_id, rows[i].slot)} {found.has[i]:.0f}" for i in ranked[:4])
    tried = f"a batch found no room {found.times} time{'s' * (found.times != 1)}"
    lines = [f"{tried}; {found.in_use:.0f}{of} cells were in use then: {largest}"]
    for row in (rows[request] for request in found.failed[:3]):
        worked = in_ms((row.prefill_ns or 0) + (row.decode_ns or 0))
        lines.append(f"{named(row.task_id, row.slot)} ended after {worked} of work and {row.tokens or 0} tokens")
    return tuple(lines)


def finding(found: NoRoom, rows: Sequence[RequestRow]) -> Finding:
    """`requests.no_kv_cells`."""
    ended = f"{len(found.failed)} request{'s' * (len(found.failed) != 1)} ended without an answer"
    waited = f"{len(found.waited)} request{'s' * (len(found.waited) != 1)} waited {in_ms(_total(found))} for cells"
    ranked = sorted(found.has, key=lambda request: -found.has[request])
    return Finding(
        id="requests.no_kv_cells",
        claim=f"The KV cache was full: {ended if found.failed else waited}",
        phase="",
        cost_ns_per_token=None,
        confidence="high",
        evidence=_evidence(found, rows, ranked),
        advice=MORE_CELLS,
        severity="problem",
    )
