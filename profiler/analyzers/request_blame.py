"""The server's batches and slots as resources: which request is in whose way. Part of requests.py.

* `batch`: the tokens that a step can compute. A prompt that takes part in the steps of others has its share of them,
  and they have their next token later; what each lost is request_delays.py's. Fires from 5 % of the victims' time
  between tokens and 10 ms on.
* `slot`: a sequence that the server decodes. Requests wait in the queue while others have them all. Fires when that was
  5 % of their time and 10 ms. A recording with the slots' own events (`--resources llama-server`) has it from those.
* `KV cells` are request_cells.py's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from flowprof.profiler.analyzers.request_scene import Scene, Seen, batches_seen, slots_seen
from flowprof.profiler.blame.over_time import LANES
from flowprof.profiler.blame.thresholds import Thresholds
from flowprof.profiler.findings import in_ms
from flowprof.profiler.sections.requests import RequestRow
from flowprof.profiler.sections.resources import Blamed, ChainLink, Holder, Victim

MAX_VICTIMS = 100
ENGINE = "llama-server"
SMALLER_BATCHES = (
    "Smaller batches (--batch-size, --ubatch-size) let the others have a token between the pieces of a long prompt; "
    "long prompts can have a server of their own."
)
MORE_SLOTS = (
    "More slots (--parallel) let requests in sooner; each takes KV cells, and steps with more sequences are longer."
)
Who = tuple[int, int | None, int | None]  # process, task, slot


@dataclass(frozen=True, slots=True)
class Prompts:
    """What prompts added between the tokens of others. victims: of the prompt that cost most, the worst first."""

    culprit: RequestRow | None  # None: it began before the recording
    who: Who
    others: tuple[Who, ...]  # whose prompts cost something, too, the most first
    victims: tuple[tuple[int, RequestRow], ...]  # ns, whose
    own_ns: int
    total_ns: int
    count: int


@dataclass(frozen=True, slots=True)
class NoSlot:
    """Requests that waited for a slot: those that got one, the longest first, and those that did not."""

    waited: tuple[RequestRow, ...]
    waiting: tuple[RequestRow, ...]
    total_ns: int


def between_tokens_ns(row: RequestRow) -> float:
    """Time between its tokens, as far as it was recorded; of a step that the end cut off, what it was delayed."""
    return (row.itl_mean_ns or 0) * ((row.tokens or 1) - 1) + sum(one.open_ns for one in row.delayed_by)


def named(task: int | None, slot: int | None) -> str:
    return f"task {task}" if task is not None else f"a task from before the recording, on slot {slot}"


def more_prompts(found: Prompts) -> str:
    """The others whose prompts cost something, too."""
    return f"prompts of {found.count - 1} more request{'s' * (found.count > 2)}"


def is_worth(lost_ns: float, of_ns: float, limits: Thresholds) -> bool:
    """Whether so much of a time was lost that it is worth saying."""
    share = limits.of("requests", "delayed_share")
    return lost_ns >= limits.of("requests", "least_ms") * 1e6 and lost_ns >= share * of_ns


def prompts(rows: tuple[RequestRow, ...], limits: Thresholds) -> Prompts | None:
    """The prompt that cost the others most, where all prompts together cost enough."""
    added: dict[Who, list[tuple[int, RequestRow]]] = defaultdict(list)
    for row in rows:
        for delay in row.delayed_by:
            if delay.decode_ns or delay.open_ns:
                added[row.pid, delay.id, delay.slot].append((delay.decode_ns + delay.open_ns, row))
    total = sum(ns for victims in added.values() for ns, _ in victims)
    decoding = sum(between_tokens_ns(row) for row in {id(r): r for v in added.values() for _, r in v}.values())
    if not total or not is_worth(total, decoding, limits):
        return None
    own = {who: sum(ns for ns, _ in victims) for who, victims in added.items()}
    who, *others = sorted(own, key=lambda one: -own[one])
    culprit = next((row for row in rows if (row.pid, row.task_id, row.slot) == who), None)
    worst = tuple(sorted(added[who], key=lambda victim: -victim[0]))
    return Prompts(culprit, who, tuple(others), worst, own[who], total, len(added))


def no_slot(rows: tuple[RequestRow, ...], limits: Thresholds) -> NoSlot | None:
    """Who waited for a slot, where that was long enough."""
    waited = tuple(sorted((row for row in rows if row.held_ns), key=lambda row: -row.held_ns))
    free = {(row.pid, row.slot) for row in rows if row.slot is not None}  # at the end
    free -= {(row.pid, row.slot) for row in rows if not row.finished}
    roomy = {pid for pid, _ in free}
    waiting = tuple(row for row in rows if row.waiting_ns and row.pid not in roomy)
    total = sum(row.held_ns for row in waited) + sum(row.waiting_ns or 0 for row in waiting)
    lasted = sum((row.queue_ns or 0) + (row.prefill_ns or 0) + (row.decode_ns or 0) for row in waited)
    lasted += sum(row.waiting_ns or 0 for row in waiting)
    return NoSlot(waited, waiting, total) if total and is_worth(total, lasted, limits) else None


def batch(found: Prompts, rows: tuple[RequestRow, ...], scene: Scene, limits: Thresholds) -> Blamed:
    """The steps' tokens as a resource that the prompt had."""
    own = found.culprit
    tokens = f"a prompt of {own.prompt_tokens} tokens in the steps of others" if own and own.prompt_tokens else ""
    rest = f"{more_prompts(found)}: {in_ms(found.total_ns - found.own_ns)} together"
    sure = all(row.baseline == "own" for _, row in found.victims)
    victims = [
        victim(row, ns, row.disturbed_steps, row.longest_delay_ns, any(one.open_ns for one in row.delayed_by))
        for ns, row in found.victims
    ]
    return blamed(
        "batch", found.who, found.own_ns / found.total_ns, found.count, victims,
        (own.prefill_ns or 0) if own else 0, "high" if sure else "medium",
        tuple(filter(None, (tokens, rest if found.count > 1 else ""))), SMALLER_BATCHES,
        batches_seen(scene, lanes((found.who, *found.others), rows)), limits,
    )  # fmt: skip


def slot(found: NoSlot, rows: tuple[RequestRow, ...], scene: Scene, limits: Thresholds) -> Blamed:
    """The slots as a resource that others had."""
    held: dict[Who, float] = defaultdict(float)
    for row in found.waited:
        for delay in (one for one in row.delayed_by if one.queue_ns):
            held[row.pid, delay.id, delay.slot] += delay.queue_ns
    still_held = [one for one in rows if one.slot is not None and not one.finished]
    for row in found.waiting:  # which slot it would have got is not known: all are taken to the end
        last = [one for one in still_held if one.pid == row.pid]
        for one in last:
            held[one.pid, one.task_id, one.slot] += (row.waiting_ns or 0) / len(last)
    ranked = sorted(held, key=lambda one: -held[one])
    who = ranked[0] if ranked else None
    own = next((row for row in rows if (row.pid, row.task_id, row.slot) == who), None)
    victims = [victim(row, row.held_ns, 1, row.held_ns, False) for row in found.waited]
    victims += [victim(row, row.waiting_ns or 0, 1, row.waiting_ns or 0, True) for row in found.waiting]
    still = f"{len(found.waiting)} were still in the queue when the recording ended" if found.waiting else ""
    return blamed(
        "slot", who, held[who] / sum(held.values()) if who else 0.0, len(held), victims,
        (own.prefill_ns or 0) + (own.decode_ns or 0) if own else 0, "high", tuple(filter(None, (still,))), MORE_SLOTS,
        slots_seen(scene, found.waiting, lanes(ranked, rows)), limits,
    )  # fmt: skip


def lanes(ranked: Sequence[Who], rows: Sequence[RequestRow]) -> list[tuple[str, int]]:
    """Names and rows of the first of them."""
    wanted = ranked[:LANES]
    at = {who: position for position, row in enumerate(rows) if (who := (row.pid, row.task_id, row.slot)) in wanted}
    return [(named(who[1], who[2]), at[who]) for who in wanted if who in at]


def victim(row: RequestRow, ns: int, waits: int, longest_ns: int, is_open: bool) -> Victim:
    """A request that waited, in the words of a resource's verdict."""
    return Victim(named(row.task_id, row.slot), 0, row.task_id, ns, waits, min(longest_ns, ns), is_open)


def blamed(
    resource: str, who: Who | None, share: float, holders: int,
    victims: list[Victim], hold_ns: int, confidence: str, evidence: tuple[str, ...], advice: str, seen: Seen,
    limits: Thresholds, capacity: int | None = None,
) -> Blamed:  # fmt: skip
    """A verdict on something of the server's. who: has most of it, `share` of all; holders: how many have some."""
    holder = Holder(named(who[1], who[2]), who[0], 0, who[1], "", "", ()) if who else None
    alone = share >= limits.of("requests", "dominant_share")
    return Blamed(
        resource=resource, kind="memory", pathology="contention", holder=holder,
        waiting_ns=sum(one.waiting_ns for one in victims), hold_ns=hold_ns, utilisation=None,
        victims=tuple(victims[:MAX_VICTIMS]),
        chain=(ChainLink(resource, "", holder.name, ""),) if holder and alone else (), confidence=confidence,
        manifest=ENGINE, instance="", capacity=capacity, share=share, holders=1 if alone else max(holders, 1),
        sufferers=len(victims), at_ns=seen.peak_ns, variables=(), evidence=evidence, advice=advice,
        picture=seen.picture,
    )  # fmt: skip
