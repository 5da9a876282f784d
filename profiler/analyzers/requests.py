"""The server's requests: queue, prompt and tokens of each, who delayed whom, and the KV cache.

* `requests.delayed_by_prompt`: the prompt of one request was computed in the same batches in which others decoded, or
  between them, and made their steps longer. The claim names the prompt, and the latency that it added to each of the
  others; the baseline is the median of the victim's own undisturbed steps (request_delays.py). Fires from 5 % of the
  victims' decode time and 10 ms on. Smaller batches (`--batch-size`, `--ubatch-size`) cut a long prompt into shorter
  stretches; a server for long prompts of their own spares the others. Withheld when more than 1 % of the batches'
  tokens were not read.
* `requests.no_free_slot`: requests waited in the queue while other requests had all slots. Fires when that was 5 % of
  their time and 10 ms. More slots (`--parallel`) let them in, at the price of longer steps and of KV cells.
* `requests.no_kv_cells`: batches found no room in the KV cache (request_cells.py). llama.cpp's server then tries fewer
  tokens at a time, and when not one finds room all requests that have slots end with "Context size has been exceeded",
  whatever they had been answered so far. Fires when one ended so, or when they waited 10 ms and 5 % of their time. The
  remedy is a larger context, fewer slots, or limits to prompts and answers.

Which operators took most of a request's graphs is request_operators.py's, where graphs were measured. `batch`, `slot`
and `KV cells` stand among the resources, too, with holder and victims (request_blame.py), and pictures over time
(request_scene.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from flowprof.profiler.analyzers import losses, request_blame, request_cells, request_scene
from flowprof.profiler.analyzers.contract import REQUESTS, Analyzer, Result, number, once
from flowprof.profiler.analyzers.kv_cells import cells, kv_cache, short
from flowprof.profiler.analyzers.request_blame import (
    MORE_SLOTS,
    SMALLER_BATCHES,
    NoSlot,
    Prompts,
    between_tokens_ns,
    more_prompts,
    named,
)
from flowprof.profiler.analyzers.request_delays import DECODE, OPEN, PREFILL, QUEUE, Delayed, delays
from flowprof.profiler.analyzers.request_facts import NEVER, NOT_YET, Facts, load, pids, prompt_tokens
from flowprof.profiler.analyzers.request_operators import operators
from flowprof.profiler.blame import thresholds
from flowprof.profiler.findings import Finding
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.requests import Delay, KvCache, RequestRow, RequestTable
from flowprof.profiler.store import Recording

MAX_ROWS = 500
MAX_DELAYS = 8  # others that one row names
NO_BATCHES = "what was in the batches was not recorded (llama.cpp with symbols since July 2025 shows it)"
MAX_UNREAD = 0.01  # of all tokens of the batches
UNREAD_SQL = """
SELECT (SELECT coalesce(sum(events), 0) FROM loss_by_place WHERE place = 'batch_tokens'),
       (SELECT coalesce(sum(tokens), 0) FROM batch_part)
"""
SLOT_EVENTS_SQL = "SELECT count(*) FROM resource WHERE manifest = 'llama-server' AND name = 'slot' AND events <> ''"
START_SQL = "SELECT min(start_ns) FROM probe_window"
ROW_SQL = """
SELECT r.pid, r.task_id, d.ttft_ns, d.dur_ns, coalesce(r.results, 0)
FROM request r JOIN request_duration d ON d.pid = r.pid AND d.task_id = r.task_id
"""
TOTAL_SQL = """
SELECT count(*), count(*) FILTER (r.end_ns IS NOT NULL),
       quantile_cont(r.started_ns - r.posted_ns, 0.5), quantile_cont(r.started_ns - r.posted_ns, 0.99)
FROM request r
"""
QUANTILE_SQL = """
SELECT quantile_cont(ttft_ns, 0.5), quantile_cont(ttft_ns, 0.99),
       quantile_cont(dur_ns, 0.5), quantile_cont(dur_ns, 0.99)
FROM request_duration
"""
AT_ONCE_SQL = """
WITH change AS (
    SELECT coalesce(posted_ns, 0) AS at_ns, 1 AS step FROM request
    UNION ALL SELECT end_ns, -1 FROM request WHERE end_ns IS NOT NULL
)
SELECT coalesce(max(n), 0) FROM (SELECT sum(step) OVER (ORDER BY at_ns, step) AS n FROM change)
"""


@dataclass(frozen=True, slots=True)
class Requests:
    """All requests of a recording, by process and time."""

    rows: tuple[RequestRow, ...]
    kv: tuple[KvCache, ...]
    batches: int
    scene: request_scene.Scene
    no_room: tuple[request_cells.NoRoom, ...]


@once
def all_requests(recording: Recording) -> Requests:
    """Every request with its phases and delays; the section shows the first of them."""
    start = int(recording.rows(START_SQL)[0][0] or 0)
    whole = {(pid, task): (ttft, dur, results) for pid, task, ttft, dur, results in recording.rows(ROW_SQL)}
    rows: list[RequestRow] = []
    kv, scenes, no_room = [], [], []
    batches = 0
    for pid in pids(recording):
        facts = load(recording, pid)
        found = delays(facts)
        batches += len(facts.batches.at)
        held, refused = cells(recording, facts), short(recording, facts)
        cache = kv_cache(recording, facts, held, start)
        kv += [cache] if cache else []
        room = request_cells.no_room(facts, held, refused, cache.capacity if cache else None, len(rows))
        no_room += [room] if room else []
        scenes.append(request_scene.scene(facts, found, held, refused, len(rows), start))
        prompts = prompt_tokens(facts)
        by_request = facts.tokens()
        for request, task in enumerate(facts.task.tolist()):
            times = whole.get((pid, task), (None, None, 0))
            rows.append(_row(facts, request, by_request[request], int(prompts[request]), found[request], times, start))
    return Requests(tuple(rows), tuple(kv), batches, request_scene.together(scenes), tuple(no_room))


def _row(
    facts: Facts, request: int, tokens: np.ndarray, prompt: int, delayed: Delayed,
    times: tuple[int | None, int | None, int], start: int,
) -> RequestRow:  # fmt: skip
    posted, started = int(facts.posted[request]), int(facts.started[request])
    has_slot, seen_start = started != NEVER, started not in (NEVER, NOT_YET)
    steps = np.diff(tokens)
    p50, p95 = np.quantile(steps, (0.5, 0.95)).tolist() if len(steps) else (None, None)
    by = sorted((_delay(facts, other, ns) for other, ns in delayed.by.items()), key=lambda one: -one.total_ns)
    by = [one for one in by if one.total_ns > 0]
    return RequestRow(
        task_id=_known(facts.task[request]),
        slot=_known(facts.slot[request]),
        posted_ns=posted - start if posted != NOT_YET else None,
        ttft_ns=times[0],
        dur_ns=times[1],
        results=times[2],
        pid=facts.pid,
        queue_ns=started - posted if seen_start and posted != NOT_YET else None,
        prefill_ns=int(tokens[0]) - started if seen_start and len(tokens) else None,
        decode_ns=int(tokens[-1] - tokens[0]) if seen_start and len(tokens) else None,
        prompt_tokens=prompt if seen_start and len(facts.batches.at) else None,
        tokens=len(tokens) if has_slot and len(facts.token_at) else None,
        first_seen_ns=int(tokens[0]) - start if len(tokens) else None,
        itl_mean_ns=float(steps.mean()) if len(steps) else None,
        itl_p50_ns=p50,
        itl_p95_ns=p95,
        itl_max_ns=int(steps.max()) if len(steps) else None,
        delayed_ns=sum(one.total_ns for one in by) if len(facts.batches.at) else None,
        delayed_by=tuple(by[:MAX_DELAYS]),
        held_ns=delayed.held_ns,
        disturbed_steps=delayed.disturbed,
        longest_delay_ns=round(delayed.longest_ns),
        baseline_ns=delayed.baseline_ns,
        baseline=delayed.baseline,
        waiting_ns=facts.until - posted if _waits(facts, request) else None,
        finished=bool(facts.released[request] != NEVER or facts.ended[request] != NEVER),
    )


def _waits(facts: Facts, request: int) -> bool:
    """It is in the queue to the end: only a build that shows its slots tells."""
    waits = facts.posted[request] != NOT_YET and facts.started[request] == NEVER and facts.ended[request] == NEVER
    return bool(waits and np.any((facts.started != NEVER) & (facts.started != NOT_YET)))


def _delay(facts: Facts, other: int, ns: list[float]) -> Delay:
    slot = _known(facts.slot[other])
    return Delay(_known(facts.task[other]), int(ns[QUEUE]), int(ns[PREFILL]), int(ns[DECODE]), slot, int(ns[OPEN]))


def _known(number: np.int64) -> int | None:
    return int(number) if number >= 0 else None


def analyze(recording: Recording) -> Result:
    count, finished, queue50, queue99 = recording.rows(TOTAL_SQL)[0]
    ttft50, ttft99, dur50, dur99 = (number(value) for value in recording.rows(QUANTILE_SQL)[0])
    found = all_requests(recording)
    slots = len({(row.pid, row.slot) for row in found.rows if row.slot is not None})
    at_once = int(recording.rows(AT_ONCE_SQL)[0][0])
    unread, read = recording.rows(UNREAD_SQL)[0]
    blind = "" if found.batches else NO_BATCHES
    if unread > MAX_UNREAD * (unread + read):
        blind = f"whose {unread} of {unread + read} tokens of the batches were was not read"
    spent = operators(recording)
    rows = tuple(
        replace(row, operators=spent.get((row.pid, -1 if row.task_id is None else row.task_id), ()))
        for row in found.rows[:MAX_ROWS]
    )
    table = RequestTable(
        rows, max(count, len(found.rows)), finished, ttft50, ttft99, dur50, dur99, at_once,
        number(queue50), number(queue99), slots, blind, found.kv,
    )  # fmt: skip
    limits = thresholds.of(recording)
    late = None if blind else request_blame.prompts(found.rows, limits)
    put_off = request_blame.no_slot(found.rows, limits)
    blamed = [request_blame.batch(late, found.rows, found.scene, limits)] if late else []
    if put_off and not recording.rows(SLOT_EVENTS_SQL)[0][0]:
        blamed.append(request_blame.slot(put_off, found.rows, found.scene, limits))
    no_room = request_cells.worth(found.no_room, found.rows, limits)
    blamed += [request_cells.cells(one, found.rows, found.scene, limits) for one in no_room]
    lost = losses.analyze(recording).value
    if not (isinstance(lost, Losses) and lost.events_withheld):
        table = replace(table, blamed=tuple(sorted(blamed, key=lambda one: -one.waiting_ns)))
    findings = [_delayed_by_prompt(late)] if late else []
    findings += [_no_free_slot(put_off, found.rows, slots)] if put_off else []
    findings += [request_cells.finding(one, found.rows) for one in no_room]
    return Result(table, tuple(findings))


def _ms(ns: float) -> str:
    return f"{ns / 1e6:.1f} ms" if ns < 1e9 else f"{ns / 1e9:.2f} s"


def _delayed_by_prompt(found: Prompts) -> Finding:
    """The prompt that cost the others most; the rest in its evidence."""
    _, task, slot = found.who
    steps = sum((row.tokens or 1) - 1 for _, row in found.victims)
    prompt = f"of {found.culprit.prompt_tokens} tokens " if found.culprit and found.culprit.prompt_tokens else ""
    whom = "one other request" if len(found.victims) == 1 else f"{len(found.victims)} other requests"
    evidence = [
        f"{named(row.task_id, row.slot)}: {_ms(ns)} of {_ms(between_tokens_ns(row))} between its tokens, longest "
        f"step {_ms(row.itl_max_ns or 0)} against {_ms(row.baseline_ns or 0)} (median of {row.baseline or 'its own'} "
        f"undisturbed steps), {row.disturbed_steps} of {(row.tokens or 1) - 1} steps disturbed"
        for ns, row in found.victims[:3]
    ]
    if found.count > 1:
        evidence.append(f"{more_prompts(found)}: {_ms(found.total_ns - found.own_ns)} together")
    return Finding(
        id="requests.delayed_by_prompt",
        claim=f"The prompt {prompt}of {named(task, slot)} added {_ms(found.own_ns)} of inter-token latency to {whom} "
        "in the same batches",
        phase="decode",
        cost_ns_per_token=found.own_ns / steps if steps else None,
        confidence="high" if all(row.baseline == "own" for _, row in found.victims) else "medium",
        evidence=tuple(evidence),
        advice=SMALLER_BATCHES,
        severity="problem",
    )


def _no_free_slot(found: NoSlot, rows: tuple[RequestRow, ...], slots: int) -> Finding:
    evidence = []
    for row in found.waited[:3]:
        held = [f"{named(one.id, one.slot)} for {_ms(one.queue_ns)}" for one in row.delayed_by if one.queue_ns]
        waits = f"task {row.task_id} waited {_ms(row.queue_ns or 0)} for slot {row.slot}"
        evidence.append(f"{waits}, which had {', '.join(held)}")
    if found.waiting:
        longest = max(row.waiting_ns or 0 for row in found.waiting)
        still = f"{len(found.waiting)} were still in the queue when the recording ended"
        evidence.append(f"{still}, for up to {_ms(longest)}")
    known = [row for row in rows if row.queue_ns is not None or row.waiting_ns is not None]
    return Finding(
        id="requests.no_free_slot",
        claim=f"{len(found.waited) + len(found.waiting)} of {len(known)} requests waited {_ms(found.total_ns)} in all "
        f"for one of {slots} slots",
        phase="",
        cost_ns_per_token=None,
        confidence="high",
        evidence=tuple(evidence),
        advice=MORE_SLOTS,
        severity="problem",
    )


ANALYZER = Analyzer("requests", "Requests", (REQUESTS,), analyze)
