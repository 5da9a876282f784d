"""Which request delayed which, and by how much: in the queue, in its prompt, and between its tokens.

* Queue. While the slot that a request was given had another holder, that one delayed it. The rest of the wait ran into
  batches that were under way: each is shared among the requests in it by their tokens.
* Prompt. The time up to a batch's end is shared among all requests in it by their tokens: the others' part is the
  delay.
  (A prompt's products are bound by arithmetic, and their time goes with the tokens.)
* Tokens. A step, from one token to the next, is disturbed when another request's prompt was in a batch of it. Its delay
  is what it took longer than the baseline: the median of the request's own undisturbed steps in which as many tokens of
  others were decoded, where there are MIN_STEPS of them; else of all its undisturbed steps; else of all requests'
  undisturbed steps. It is shared among the prompts by their tokens. No baseline, no delay. A step that the recording's
  end cut off counts as far as it was seen, and by itself: it is no step of known length.

Each is a part of its phase, so that what a request was delayed never exceeds its latency.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from flowprof.profiler.analyzers.request_facts import NEVER, NOT_YET, Batches, Facts
from numpy.typing import NDArray

MIN_STEPS = 4
QUEUE, PREFILL, DECODE, OPEN = range(4)


@dataclass(slots=True)
class Delayed:
    """What one request lost. by: the other request → ns by phase, in the order of QUEUE … OPEN."""

    by: dict[int, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0, 0.0, 0.0]))
    held_ns: int = 0  # of the queue: its slot had another holder
    disturbed: int = 0  # steps with another's prompt in them
    longest_ns: float = 0.0  # what such a step took longer, at most
    baseline_ns: float | None = None  # median of those that were used; None: no undisturbed step to compare with
    baseline: str = ""  # whose steps: own, others'
    late: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))  # from when to when a token was
    # overdue: of every delayed step the end, as long as its delay

    def add(self, shares: dict[int, float], kind: int, ns: float) -> None:
        """Blame others for `ns`, by their shares, which add up to 1."""
        for request, share in shares.items():
            self.by[request][kind] += share * ns


def delays(facts: Facts) -> list[Delayed]:
    """Per request of `facts`. Without batches only the holder of a slot is known."""
    found = [Delayed() for _ in facts.task]
    tokens = facts.tokens()
    before = _before(facts)
    for request, delayed in enumerate(found):
        _queue(facts, request, before, delayed)
        if len(tokens[request]):
            _prompt(facts, request, int(tokens[request][0]), delayed)
    _steps(facts, tokens, found)
    return found


def _before(facts: Facts) -> dict[int, int]:
    """Who had a request's slot before it."""
    order = np.lexsort((facts.started, facts.slot))
    order = order[(facts.slot[order] >= 0) & (facts.started[order] != NEVER)]
    same = facts.slot[order[1:]] == facts.slot[order[:-1]]
    return dict(zip(order[1:][same].tolist(), order[:-1][same].tolist(), strict=True))


def _queue(facts: Facts, request: int, before: dict[int, int], delayed: Delayed) -> None:
    posted, started = int(facts.posted[request]), int(facts.started[request])
    if posted == NOT_YET or started in (NEVER, NOT_YET):
        return
    holder, until = before.get(request), started
    while holder is not None and until > posted:  # from the last one backwards
        begin = max(posted, int(facts.started[holder]))
        end = min(until, int(facts.released[holder]))
        if end > begin:
            delayed.by[holder][QUEUE] += end - begin
            delayed.held_ns += end - begin
        until, holder = min(until, begin), before.get(holder)
    if not delayed.held_ns:
        for ns, shares in _slices(facts.batches, posted, started):
            delayed.add({other: share for other, share in shares.items() if other != request}, QUEUE, ns)


def _prompt(facts: Facts, request: int, first_token: int, delayed: Delayed) -> None:
    started = int(facts.started[request])
    if started == NOT_YET:
        return
    for ns, shares in _slices(facts.batches, started, first_token):
        delayed.add({other: share for other, share in shares.items() if other != request}, PREFILL, ns)


def _slices(batches: Batches, begin: int, end: int) -> list[tuple[int, dict[int, float]]]:
    """The batches of a stretch of time: how much of it each took, and the share of each known request in its tokens."""
    found = []
    first = int(np.searchsorted(batches.end, begin, side="right"))
    last = int(np.searchsorted(batches.at, end))
    now = begin
    for batch in range(first, last):
        until = min(int(batches.end[batch]), end)
        since = max(now, min(int(batches.at[batch]), end)) if batch == first else now
        parts = slice(batches.first[batch], batches.first[batch + 1])
        owners, tokens = batches.owner[parts], batches.tokens[parts]
        total = int(tokens.sum())
        shares: dict[int, float] = defaultdict(float)
        for owner, count in zip(owners.tolist(), tokens.tolist(), strict=True):
            if owner >= 0 and total:
                shares[owner] += count / total
        if until > since:
            found.append((until - since, dict(shares)))
        now = max(now, until)
    return found


def _steps(facts: Facts, tokens: list[NDArray[np.int64]], found: list[Delayed]) -> None:
    """All steps of all requests at once; batches by prefix sums."""
    batches = facts.batches
    at_work = (facts.released == NEVER) & (facts.ended == NEVER)
    times = [
        np.append(seen, facts.until) if at_work[request] and len(seen) else seen for request, seen in enumerate(tokens)
    ]
    many = [request for request, seen in enumerate(times) if len(seen) > 1]
    if not many or not len(batches.at):
        return
    owner = np.repeat(many, [len(times[request]) - 1 for request in many])
    begin = np.concatenate([times[request][:-1] for request in many])
    end = np.concatenate([times[request][1:] for request in many])
    cut_off = np.append(owner[1:] != owner[:-1], True) & at_work[owner]
    took = end - begin
    first, last = np.searchsorted(batches.at, begin), np.searchsorted(batches.at, end)
    of_prompts = _sums(batches, np.where(batches.prompt, batches.tokens, 0))
    of_others = _sums(batches, np.where(batches.prompt, 0, batches.tokens))
    prompts = of_prompts[last] - of_prompts[first]  # its own was over before the first of its tokens
    company = of_others[last] - of_others[first]
    calm = (prompts == 0) & (last > first) & ~cut_off  # one without a batch: several tokens came out of one
    everybody = float(np.median(took[calm])) if calm.sum() >= MIN_STEPS else None
    bounds = np.append(np.flatnonzero(np.append(True, owner[1:] != owner[:-1])), len(owner))
    for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        delayed = found[int(owner[a])]
        own = a + np.flatnonzero(calm[a:b])
        disturbed = a + np.flatnonzero(prompts[a:b] > 0)
        delayed.disturbed = int((~cut_off[disturbed]).sum())
        usual = float(np.median(took[own])) if len(own) >= MIN_STEPS else everybody
        delayed.baseline = "own" if len(own) >= MIN_STEPS else "others'" if usual is not None else ""
        delayed.baseline_ns = usual
        if usual is None or not len(disturbed):
            continue
        used, late = [], []
        medians = _medians(took[own], company[own])
        for step in disturbed.tolist():
            expected = medians.get(int(company[step]), usual)
            used.append(expected)
            added = max(0.0, float(took[step]) - expected)
            delayed.longest_ns = max(delayed.longest_ns, added)
            late.append((end[step] - round(added), end[step]))
            parts = slice(batches.first[first[step]], batches.first[last[step]])
            whose = batches.owner[parts][batches.prompt[parts]]
            sizes = batches.tokens[parts][batches.prompt[parts]]
            delayed.add(dict(_shares(whose, sizes)), OPEN if cut_off[step] else DECODE, added)
        delayed.baseline_ns = float(np.median(used))
        delayed.late = np.array(late, np.int64)


def _medians(took: NDArray[np.int64], company: NDArray[np.int64]) -> dict[int, float]:
    """The usual step by the number of tokens in it, where there are enough."""
    numbers, counts = np.unique(company, return_counts=True)
    enough = numbers[counts >= MIN_STEPS].tolist()
    return {number: float(np.median(took[company == number])) for number in enough}


def _shares(owners: NDArray[np.int64], tokens: NDArray[np.int64]) -> list[tuple[int, float]]:
    who, where = np.unique(owners, return_inverse=True)
    return list(zip(who.tolist(), (np.bincount(where, tokens) / tokens.sum()).tolist(), strict=True))


def _sums(batches: Batches, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the parts of all batches before each one."""
    return np.append(0, np.cumsum(values))[batches.first]
