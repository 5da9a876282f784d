"""Other requests' prompts are computed in the batches in which a request waits for its next token.

Fires when what requests lost between their tokens to the prompts of others (profiler/analyzers/request_delays.py: the
baseline is the median of a request's own undisturbed steps) is 5 % of their decoding and 10 ms, on one side, and less
than half of that per token on the other. Such steps are graphs of prompt and decode mixed, which are in no decode step;
the share is of the change of the mean time between the tokens of all requests (inter-token latency).

What to do: a smaller --ubatch-size lets the others have a token between the pieces of a long prompt; a server of its
own for long prompts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from flowprof.profiler.analyzers.requests import MAX_DELAYS, all_requests
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Side
from flowprof.profiler.diff.steps.steps import NEXT_TOKEN
from flowprof.profiler.findings import in_ms
from flowprof.profiler.sections.requests import RequestRow

MIN_SHARE, MIN_NS = 0.05, 10e6
Whose = tuple[int, int | None, int | None]  # pid, task, slot


@dataclass(slots=True)
class Between:
    """The time between the tokens of a side's requests. `delayed_ns`: of it, by others' prompts."""

    steps: int = 0
    ns: float = 0.0
    delayed_ns: float = 0.0
    victims: int = 0
    by: dict[Whose, float] = field(default_factory=lambda: defaultdict(float))
    more: bool = False  # than `by` names
    prompts: dict[Whose, int] = field(default_factory=dict)

    @property
    def delay(self) -> float:
        """ns per step"""
        return self.delayed_ns / self.steps if self.steps else 0.0

    @property
    def each(self) -> float:
        """ns per step"""
        return self.ns / self.steps if self.steps else 0.0


def causes(compared: Compared) -> Sequence[Claim]:
    a, b = between_tokens(compared.pair.a), between_tokens(compared.pair.b)
    most, least = (b, a) if b.delay >= a.delay else (a, b)
    enough = most.delayed_ns >= MIN_NS and most.delayed_ns >= MIN_SHARE * most.ns
    if not enough or not least.steps or 2 * least.delay > most.delay:
        return []
    change, explained = b.each - a.each, b.delay - a.delay
    whole = change * explained > 0
    return [
        Claim(
            _cause(a, b, min(1.0, explained / change) if whole else None, _phase(compared)),
            ns=min(explained, change, key=abs) if whole else explained,
        )
    ]


def _phase(compared: Compared) -> str:
    return NEXT_TOKEN if any(shift.phase == NEXT_TOKEN for shift in compared.phases) else "mixed"


def between_tokens(side: Side) -> Between:
    """Of all recordings of the side together; nothing where requests or their batches are not known."""
    found = Between()
    for recording in side.recordings:
        requests = all_requests(recording)
        overdue = requests.scene.late  # of all prompts; a row names the worst of them
        whole = overdue.of(overdue.end_ns < requests.scene.end_ns)  # a step that the end cut off has no length
        lost = np.bincount(whole.who, whole.end_ns - whole.start_ns, len(requests.rows))
        for row, delayed_ns in zip(requests.rows, lost.tolist(), strict=True):
            found.prompts[_key(row)] = row.prompt_tokens or 0
            if row.itl_mean_ns is None or not row.tokens or row.tokens < 2:
                continue
            found.steps += row.tokens - 1
            found.ns += row.itl_mean_ns * (row.tokens - 1)
            found.delayed_ns += delayed_ns
            found.victims += delayed_ns > 0
            for delay in row.delayed_by:
                found.by[row.pid, delay.id, delay.slot] += delay.decode_ns
            found.more |= len(row.delayed_by) == MAX_DELAYS
    return found


def _cause(a: Between, b: Between, share: float | None, phase: str) -> Cause:
    more = b.delay > a.delay
    most = b if more else a
    prompts = [whose for whose, ns in most.by.items() if ns > 0]
    worst = max(prompts, key=lambda whose: most.by[whose])
    length = most.prompts.get(worst)
    size = f" of {length:,} tokens" if length else ""
    who = f"task {worst[1]}" if worst[1] is not None else f"the task on slot {worst[2]}"
    claim = f"Prompts{size} of another client share the batches of {most.victims} decoding requests"
    return Cause(
        claim=claim if more else claim.replace(" share ", " no longer share "),
        kind="client",
        share=share,
        confidence="high",
        evidence=(
            f"between the tokens of requests: {in_ms(a.each)} → {in_ms(b.each)}; of it lost to prompts of others: "
            f"{in_ms(a.delay)} → {in_ms(b.delay)} (mean of {a.steps} and {b.steps} steps; the share is of this change)",
            f"{'at least ' * most.more}{len(prompts)} prompts delayed others, most of all {who}: "
            f"{in_ms(most.by[worst])} in all",
        ),
        next="Set a smaller --ubatch-size, so that a long prompt leaves tokens to the others between its pieces; or "
        "give long prompts a server of their own.",
        phase=phase,
    )


def _key(row: RequestRow) -> Whose:
    return row.pid, row.task_id, row.slot
