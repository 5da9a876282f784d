"""What the server's slots and batches looked like over time: the pictures beside request_blame.py's verdicts.

* `slot`: a request has its slot from when it got it until it gave it back, or the next one got it. Requests wait as
  long as the slot that they were given in the end had somebody else; of those that never got one, from when they were
  posted to the end. So the waiters add up to the verdict's waiting.
* `KV cells`: a request has the cells of its slot's sequence from when they were computed until they are given back or
  the next one takes the slot. Waiters: requests of a batch that found no room, until the next one is computed.
* `batch`: the tokens of a batch count from when it was put together to the end of its graph; a draft model's are left
  out. Waiters are requests whose next token is overdue: it would have been there if the step had taken its baseline
  (request_delays.py). They add up to what all prompts together added. Lanes: the tokens of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from flowprof.profiler.analyzers.kv_cells import Cells, Short
from flowprof.profiler.analyzers.request_delays import Delayed
from flowprof.profiler.analyzers.request_facts import NEVER, NOT_YET, Facts
from flowprof.profiler.blame.over_time import LANES, STEPS, level, means
from flowprof.profiler.sections.requests import RequestRow
from flowprof.profiler.sections.resources import Picture
from numpy.typing import NDArray

Ints = NDArray[np.int64]
SPANS = ("slots", "kept_out", "batches", "prompts", "late", "cells", "short")
OVERDUE = (
    "Lanes count tokens of prompts only. Overdue: the token would have been there if its step had taken no longer than "
    "undisturbed ones (their median)."
)


@dataclass(frozen=True, slots=True)
class Spans:
    """Units from start_ns to end_ns. who: an index of Requests.rows; -1: nobody's in particular."""

    who: Ints
    start_ns: Ints
    end_ns: Ints
    units: Ints

    def of(self, which: NDArray[np.bool_]) -> Spans:
        """Some of them."""
        return Spans(self.who[which], self.start_ns[which], self.end_ns[which], self.units[which])


@dataclass(frozen=True, slots=True)
class Scene:
    """All that pictures are made of, of one process or of several."""

    begin_ns: int
    end_ns: int
    slots: Spans  # who had one
    kept_out: Spans  # so many waited for a slot that somebody else had
    batches: Spans  # tokens
    prompts: Spans  # those of them that are of prompts
    late: Spans  # whose next token was overdue
    cells: Spans  # of the KV cache; of the request that had the slot last
    short: Spans  # whose batch found no room in it


@dataclass(frozen=True, slots=True)
class Seen:
    """picture: None where the recording has no length. peak_ns: when most waited, since the recording began."""

    picture: Picture | None
    peak_ns: int


def scene(facts: Facts, delayed: Sequence[Delayed], kv: Cells, short: Short, first: int, begin_ns: int) -> Scene:
    """Of one process; `first`: where its requests begin in Requests.rows."""
    end_ns = max(facts.until, begin_ns)
    holders, slots = _slots(facts, begin_ns, end_ns)
    late = [one.late for one in delayed]
    overdue = np.concatenate([*late, np.zeros((0, 2), np.int64)])
    whose = np.repeat(np.arange(len(late)), [len(one) for one in late])
    return Scene(
        begin_ns, end_ns, replace(slots, who=holders + first), _kept_out(facts, holders, slots, begin_ns, end_ns),
        *_tokens(facts, first, begin_ns, end_ns),
        _spans(whose + first, overdue[:, 0], overdue[:, 1], 1, begin_ns, end_ns),
        _cells(facts, kv, first, begin_ns, end_ns),
        _spans(short.request + first, short.start_ns, short.end_ns, 1, begin_ns, end_ns),
    )  # fmt: skip


def together(scenes: Sequence[Scene]) -> Scene:
    """Of several processes; of none an empty one."""
    begin, end = min((one.begin_ns for one in scenes), default=0), max((one.end_ns for one in scenes), default=0)
    return Scene(begin, end, *(_joined([getattr(one, name) for one in scenes]) for name in SPANS))


def slots_seen(found: Scene, waiting: Sequence[RequestRow], lanes: Sequence[tuple[str, int]]) -> Seen:
    """waiting: requests that never got one. lanes: names and indexes of Requests.rows, the blamed first."""
    posted = [found.begin_ns + (row.posted_ns or 0) for row in waiting]
    until = [at + (row.waiting_ns or 0) for at, row in zip(posted, waiting, strict=True)]
    nobody = np.full(len(waiting), -1)
    never = _spans(nobody, np.array(posted, np.int64), np.array(until, np.int64), 1, found.begin_ns, found.end_ns)
    waits = _joined([found.kept_out, never])
    return _seen(found, found.slots, waits, found.slots, lanes, ("slots held", "requests waiting", ""))


def batches_seen(found: Scene, lanes: Sequence[tuple[str, int]]) -> Seen:
    """As slots_seen."""
    words = ("tokens in batches", "tokens overdue", OVERDUE)
    return _seen(found, found.batches, found.late, found.prompts, lanes, words)


def cells_seen(found: Scene, lanes: Sequence[tuple[str, int]]) -> Seen:
    """As slots_seen."""
    words = (
        "cells in use",
        "requests whose batch found no room",
        "A request's lane has its cells until they are freed.",
    )
    return _seen(found, found.cells, found.short, found.cells, lanes, words)


def _seen(
    found: Scene, held: Spans, waits: Spans, holds: Spans, lanes: Sequence[tuple[str, int]], words: tuple[str, str, str]
) -> Seen:
    """held: all units; holds: those of the lanes."""
    at, waiters = _level(waits)
    longest = np.lexsort((np.diff(at, append=at[-1:]), waiters))[-1:]  # of the moments with most of them
    peak = int(at[longest[0]]) - found.begin_ns if len(longest) else 0
    if found.end_ns <= found.begin_ns:
        return Seen(None, peak)
    edges = np.linspace(found.begin_ns, found.end_ns, STEPS + 1)
    drawn = tuple(
        (name, tuple(means(*_level(holds.of(holds.who == who)), edges).tolist())) for name, who in lanes[:LANES]
    )
    occupancy, waiting = means(*_level(held), edges), means(at, waiters, edges)
    step = (found.end_ns - found.begin_ns) / STEPS
    return Seen(Picture(step, tuple(occupancy.tolist()), tuple(waiting.tolist()), drawn, *words), peak)


def _slots(facts: Facts, begin_ns: int, end_ns: int) -> tuple[Ints, Spans]:
    """The requests that had slots, by slot and start, and from when to when."""
    order, until = facts.holds()
    return order, _spans(order, facts.started[order], until, 1, begin_ns, end_ns)


def _kept_out(facts: Facts, holders: Ints, slots: Spans, begin_ns: int, end_ns: int) -> Spans:
    """How many waited while somebody else had the slot that they were to have: slot by slot, of all moments."""
    waits = np.flatnonzero((facts.posted != NOT_YET) & (facts.started != NEVER) & (facts.started != NOT_YET))
    asked = _spans(waits, facts.posted[waits], facts.started[waits], 1, begin_ns, end_ns)
    of = facts.slot[np.concatenate((holders, holders, waits, waits))]
    at = np.concatenate((slots.start_ns, slots.end_ns, asked.start_ns, asked.end_ns))
    taken = np.repeat((1, -1, 0, 0), (len(holders), len(holders), len(waits), len(waits)))
    waiting = np.repeat((0, 0, 1, -1), (len(holders), len(holders), len(waits), len(waits)))
    order = np.lexsort((at, of))  # each slot's changes add up to nothing
    many = np.where(np.cumsum(taken[order]) > 0, np.cumsum(waiting[order]), 0)[:-1]
    kept = many > 0
    return Spans(np.full(int(kept.sum()), -1), at[order][:-1][kept], at[order][1:][kept], many[kept])


def _tokens(facts: Facts, first: int, begin_ns: int, end_ns: int) -> tuple[Spans, Spans]:
    """Tokens of all batches of the model; and those of prompts, by whose they are."""
    batches = facts.batches
    until = np.minimum(batches.end, np.append(batches.at[1:], NEVER)[: len(batches.at)])  # one after the other
    sums = np.append(0, np.cumsum(np.where(batches.main, batches.tokens, 0)))[batches.first]
    tokens = np.diff(sums)
    all_of_them = _spans(np.full(len(tokens), -1), batches.at, until, tokens, begin_ns, end_ns)
    mine = np.flatnonzero(batches.prompt & batches.main)
    at, end = batches.at[batches.of[mine]], until[batches.of[mine]]
    return all_of_them, _spans(batches.owner[mine] + first, at, end, batches.tokens[mine], begin_ns, end_ns)


def _cells(facts: Facts, kv: Cells, first: int, begin_ns: int, end_ns: int) -> Spans:
    """The cells of each sequence until they change, and whose they are."""
    order = np.argsort(kv.sequence, kind="stable")
    sequence, at = kv.sequence[order], kv.at[order]
    until = np.append(at[1:], end_ns)[: len(at)]
    until[np.append(sequence[1:] != sequence[:-1], True)[: len(at)]] = end_ns
    who = facts.last_on_slot(sequence, at)
    return _spans(np.where(who < 0, -1, who + first), at, until, kv.cells[order], begin_ns, end_ns)


def _spans(who: Ints, start_ns: Ints, end_ns: Ints, units: Ints | int, begin_ns: int, until_ns: int) -> Spans:
    """As far as they lie in the recording."""
    start, end = np.clip(start_ns, begin_ns, until_ns), np.clip(end_ns, begin_ns, until_ns)
    return Spans(who, start, np.maximum(start, end), np.broadcast_to(np.asarray(units, np.int64), start.shape))


def _level(spans: Spans) -> tuple[Ints, NDArray[np.float64]]:
    return level(spans.start_ns, spans.end_ns, spans.units)


def _joined(parts: Sequence[Spans]) -> Spans:
    """One below the other."""
    names = ("who", "start_ns", "end_ns", "units")
    empty = [np.zeros(0, np.int64)]
    return Spans(*(np.concatenate([*(getattr(one, name) for one in parts), *empty]) for name in names))
