"""What the clients of a server wait for, as phases of their own. A source of `steps.py`, without operators.

* inter-token latency: from each token of a request to its next one, whatever was computed meanwhile. A prompt of
  another client in the batch makes it longer, and is in no decode step.
* time to first token: of each request, from when it was posted.
* queue: until it had a slot.

Requests at one time share their batches, so gaps count in the order of time. Phases of less than MIN_STEPS are left
out: a few requests tell nothing. A queue or a first token of less than LEAST_NS on both sides is left out, too, and a
change by less is none: nobody waits for it. Where the prompts of two sides are not of one length, that is why first
tokens come sooner or later, and no verdict is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from flowprof.profiler.analyzers.request_facts import NEVER, NOT_YET, Facts, load, pids, prompt_tokens
from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.result import PhaseShift
from flowprof.profiler.diff.side import began
from flowprof.profiler.diff.steps.steps import FIRST_TOKEN, NEXT_TOKEN, QUEUE, REQUESTS, Ints, Steps
from flowprof.profiler.store import Recording

MIN_STEPS = statistics.MIN_BLOCKS * statistics.MIN_STEPS  # what is tested
LEAST_NS = 1e6
_EMPTY = np.zeros(0, np.int64)


def read(recording: Recording) -> list[Steps]:
    """Empty without requests."""
    since = began(recording)  # of a part of a recording (--self): what was posted before has its first token there
    found: dict[str, list[tuple[Ints, ...]]] = {phase: [] for phase in REQUESTS}
    for pid in pids(recording):
        facts = load(recording, pid)
        tokens = facts.tokens()
        found[NEXT_TOKEN] += [(one[:-1], np.diff(one)) for one in tokens]
        found[FIRST_TOKEN].append(_first_tokens(facts, tokens, since))
        found[QUEUE].append(_queue(facts, since))
    return [steps for phase, each in found.items() if (steps := _steps(phase, each)) is not None]


def telling(shifts: Sequence[PhaseShift], same_prompts: bool) -> tuple[PhaseShift, ...]:
    """Without what takes next to nothing; and no change where it is one of next to nothing, or of the prompts."""
    kept = []
    for shift in shifts:
        if shift.phase in (FIRST_TOKEN, QUEUE):
            if max(shift.a_ns_per_token, shift.b_ns_per_token) < LEAST_NS:
                continue
            tails = abs((shift.b_tail_ns or 0.0) - (shift.a_tail_ns or 0.0)) >= LEAST_NS
            judged = same_prompts or shift.phase != FIRST_TOKEN
            large = abs(shift.delta_ns_per_token) >= LEAST_NS
            shift = replace(
                shift,
                significant=shift.significant and large and judged,
                tail_significant=shift.tail_significant and tails and judged,
            )
        kept.append(shift)
    return tuple(kept)


def _first_tokens(facts: Facts, tokens: Sequence[Ints], since: int) -> tuple[Ints, Ints, Ints]:
    """When posted, how long it took, and the tokens of the prompt that were computed."""
    known = [at for at, one in enumerate(tokens) if len(one) and facts.posted[at] >= max(since, NOT_YET + 1)]
    posted = facts.posted[known]
    return posted, np.array([tokens[at][0] for at in known], np.int64) - posted, prompt_tokens(facts)[known]


def _queue(facts: Facts, since: int) -> tuple[Ints, Ints]:
    known = (facts.posted >= max(since, NOT_YET + 1)) & (facts.started != NOT_YET) & (facts.started != NEVER)
    return facts.posted[known], facts.started[known] - facts.posted[known]


def _steps(phase: str, each: Sequence[tuple[Ints, ...]]) -> Steps | None:
    """each: start, ns, and of first tokens what was computed before."""
    if sum(len(one[0]) for one in each) < MIN_STEPS:
        return None
    start, ns, *prompts = (np.concatenate(column) for column in zip(*each, strict=True))
    order = np.argsort(start, kind="stable")
    return Steps(
        phase=phase, start_ns=_EMPTY, tokens=_EMPTY, groups=(), ns=np.zeros((0, 0)), facts=(),
        all_start_ns=start[order], all_tokens=np.ones(len(ns), np.int64), all_ns=ns[order].astype(float),
        all_context=prompts[0][order] if prompts else np.zeros(len(ns), np.int64),
        per="token" if phase == NEXT_TOKEN else "request",
    )  # fmt: skip
