"""The requests of a process with their tokens and batches, joined: which token, and which part of a batch, is whose.

A slot serves one request after the other, from `started_ns` to `released_ns`; what is chosen or computed for it in that
time belongs to that request. A part of a batch is of the prompt while its request has no token yet. A request that had
its slot before the recording began is known from then on, and its first token is not: what of it was prompt is taken
from parts of more than one token. One that had its slot before and still has it at the end may have sent nothing: then
its tokens and batches tell of it, and its number is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from flowprof.profiler.store import Recording
from numpy.typing import NDArray

Times = NDArray[np.int64]
NEVER = np.iinfo(np.int64).max
NOT_YET = np.iinfo(np.int64).min
MAX_REQUESTS = 100_000  # of one process, the first ones; and of its tokens and parts:
MAX_ROWS = 5_000_000
REQUEST_SQL = f"""
SELECT task_id, slot, posted_ns, started_ns, released_ns, end_ns FROM request WHERE pid = ?
ORDER BY coalesce(posted_ns, started_ns, first_result_ns) NULLS FIRST, task_id LIMIT {MAX_REQUESTS}
"""
TOKEN_SQL = f"SELECT slot, at_ns FROM slot_token WHERE pid = ? ORDER BY at_ns LIMIT {MAX_ROWS}"
PART_SQL = f"""
SELECT b.at_ns, e.end_ns, coalesce(b.context, 0) AS context, b.sequence, b.tokens, b.position
FROM batch_part b ASOF LEFT JOIN (SELECT * FROM graph_exec WHERE pid = $pid) e
     ON e.tid = b.tid AND e.start_ns >= b.at_ns
WHERE b.pid = $pid ORDER BY b.at_ns, b.position LIMIT {MAX_ROWS}
"""
PID_SQL = "SELECT pid FROM request UNION SELECT pid FROM slot_token ORDER BY pid"
END_SQL = "SELECT max(end_ns) FROM probe_window"


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches by time, and their parts in the order of the batches."""

    at: Times
    end: Times  # of the graph; `at` where it was not seen to end
    of: NDArray[np.int64]  # per part: which batch
    first: NDArray[np.int64]  # per batch: its first part; and one more at the end
    owner: NDArray[np.int64]  # per part: whose, an index of Facts.task; -1: of no request that is known
    sequence: NDArray[np.int64]
    tokens: NDArray[np.int64]
    position: NDArray[np.int64]
    prompt: NDArray[np.bool_]
    main: NDArray[np.bool_]  # of the context that took most time: a draft model computes the same tokens once more
    context: int  # which that is; -1: no batch was recorded


@dataclass(frozen=True, slots=True)
class Facts:
    """One process. A request is an index of `task`; times in ns, NEVER and NOT_YET where they are not known."""

    pid: int
    task: NDArray[np.int64]  # -1: not known
    slot: NDArray[np.int64]  # -1: none
    posted: Times  # NOT_YET: before the recording
    started: Times  # NOT_YET: before the recording; NEVER: it got no slot
    released: Times  # NEVER: not before the end
    ended: Times  # the last answer; NEVER
    owner: NDArray[np.int64]  # per token: whose; -1
    token_at: Times
    batches: Batches
    until: int  # the recording's end

    def tokens(self) -> list[Times]:
        """When the tokens of each request were chosen."""
        order = np.argsort(self.owner, kind="stable")
        bounds = np.searchsorted(self.owner[order], np.arange(len(self.task) + 1))
        return [self.token_at[order[a:b]] for a, b in pairwise(bounds.tolist())]

    def holds(self) -> tuple[NDArray[np.int64], Times]:
        """The requests that had slots, by slot and start; and until when: it was given back, or the next one got it.

        NEVER where neither is known, nor that the request was answered.
        """
        order = np.lexsort((self.released, self.started, self.slot))
        order = order[(self.slot[order] >= 0) & (self.started[order] != NEVER)]
        slot, start = self.slot[order], self.started[order]
        following = np.append(start[1:], NEVER)
        following[np.append(slot[1:] != slot[:-1], True)[: len(slot)]] = NEVER
        until = np.minimum(self.released[order], following[: len(order)])
        return order, np.where(until == NEVER, self.ended[order], until)

    def last_on_slot(self, slots: NDArray[np.int64], at: Times) -> NDArray[np.int64]:
        """Who had the slot at that time, or the last before it; -1: nobody that is known."""
        return _last(_holders(self.slot, self.started, self.released), slots, at, self.started)


def pids(recording: Recording) -> list[int]:
    """The processes that have requests."""
    return [int(pid) for (pid,) in recording.rows(PID_SQL)]


def load(recording: Recording, pid: int) -> Facts:
    """What the recording knows of the requests of one process."""
    rows = recording.columns(REQUEST_SQL, [pid])
    task, slot = _filled(rows["task_id"], -1), _filled(rows["slot"], -1)
    posted, ended = _filled(rows["posted_ns"], NOT_YET), _filled(rows["end_ns"], NEVER)
    started, released = _filled(rows["started_ns"], NEVER), _filled(rows["released_ns"], NEVER)
    started[(started == NEVER) & (slot >= 0)] = NOT_YET  # a slot without a start: it was there before us
    tokens = recording.columns(TOKEN_SQL, [pid])
    token_at, token_slot = _filled(tokens["at_ns"], 0), _filled(tokens["slot"], -1)
    nameless, left = _nameless(slot, started, token_slot, token_at)
    more = len(nameless)
    task, slot = np.append(task, np.full(more, -1)), np.append(slot, nameless)
    posted, ended = np.append(posted, np.full(more, NOT_YET)), np.append(ended, np.full(more, NEVER))
    started, released = np.append(started, np.full(more, NOT_YET)), np.append(released, left)
    holders = _holders(slot, started, released)
    owner = _owners(holders, token_slot, token_at, started, released)
    first_token = np.full(len(task), NEVER)
    known = owner >= 0
    np.minimum.at(first_token, owner[known], token_at[known])
    parts = recording.columns(PART_SQL, {"pid": pid})
    at, sequence, size = _filled(parts["at_ns"], 0), _filled(parts["sequence"], -1), _filled(parts["tokens"], 0)
    whose = _owners(holders, sequence, at, started, released)
    early = (whose >= 0) & (at < first_token[whose])
    prompt = early & ((started[whose] != NOT_YET) | (size > 1))
    starts = np.flatnonzero(np.append(True, at[1:] != at[:-1])) if len(at) else np.zeros(0, np.int64)
    end = np.maximum.accumulate(np.maximum(_filled(parts["end_ns"], 0), at)[starts])
    contexts = _filled(parts["context"], 0)
    main = _main(contexts, starts, end - at[starts])
    batches = Batches(
        at[starts], end, np.searchsorted(starts, np.arange(len(at)), side="right") - 1, np.append(starts, len(at)),
        whose, sequence, size, _filled(parts["position"], 0), prompt, contexts == main, main,
    )  # fmt: skip
    lasts = [int(column[-1]) for column in (token_at, at) if len(column)]
    last = max([int(recording.rows(END_SQL)[0][0] or 0), *lasts])
    return Facts(pid, task, slot, posted, started, released, ended, owner, token_at, batches, last)


def prompt_tokens(facts: Facts) -> NDArray[np.int64]:
    """Of each request, how many were computed: what the cache held is not among them."""
    mine = facts.batches.prompt & facts.batches.main
    return np.bincount(facts.batches.owner[mine], facts.batches.tokens[mine], len(facts.task)).astype(np.int64)


def _filled(column: NDArray[np.generic], missing: int) -> NDArray[np.int64]:
    """With a number in place of NULL. DuckDB gives masked arrays only where there are any."""
    found: NDArray[np.int64] = np.ma.filled(column.astype(np.int64), missing)
    return found


def _main(context: NDArray[np.int64], starts: NDArray[np.int64], took: Times) -> int:
    """The context whose batches took longest. starts: each batch's first part."""
    numbers, which = np.unique(context[starts], return_inverse=True)
    return int(numbers[np.argmax(np.bincount(which, took))]) if len(numbers) else -1


def _nameless(
    slot: NDArray[np.int64], started: Times, token_slot: NDArray[np.int64], token_at: Times
) -> tuple[NDArray[np.int64], Times]:
    """Slots at which tokens were chosen before any request is known to have had them, and until when."""
    found, until = [], []
    for number in np.unique(token_slot[token_slot >= 0]).tolist():
        first = int(started[slot == number].min(initial=NEVER))
        if first != NOT_YET and bool((token_at[token_slot == number] < first).any()):
            found.append(number)
            until.append(first - 1 if first != NEVER else NEVER)
    return np.array(found, np.int64), np.array(until, np.int64)


def _holders(slot: NDArray[np.int64], started: Times, released: Times) -> dict[int, NDArray[np.int64]]:
    """Per slot the requests that had it, by their start."""
    order = np.lexsort((released, started))
    order = order[started[order] != NEVER]
    return {int(number): order[slot[order] == number] for number in np.unique(slot[order])}


def _owners(
    holders: dict[int, NDArray[np.int64]], slots: NDArray[np.int64], at: Times, started: Times, released: Times
) -> NDArray[np.int64]:
    """Who had the slot at that time; -1: nobody that is known."""
    last = _last(holders, slots, at, started)
    return np.where(at <= np.append(released, NOT_YET)[last], last, -1)


def _last(
    holders: dict[int, NDArray[np.int64]], slots: NDArray[np.int64], at: Times, started: Times
) -> NDArray[np.int64]:
    """Who got the slot last, up to that time; -1: nobody that is known."""
    last = np.full(len(slots), -1, np.int64)
    for slot, requests in holders.items():
        mine = np.flatnonzero(slots == slot)
        place = np.searchsorted(started[requests], at[mine], side="right") - 1
        last[mine] = np.append(requests, -1)[place]
    return last
