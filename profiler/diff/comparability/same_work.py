"""Whether both sides did the same work: which phases, how many tokens, in which batches, at which context.

All of it comes from the steps; what requests waited for (REQUESTS) is of the same work. Most of what differs here
does not forbid a comparison: times are divided by the tokens of their phase, and `normalisation` says so, and what that
does not make equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.diff.comparability import known, same_steps
from flowprof.profiler.diff.result import Difference
from flowprof.profiler.diff.steps.steps import FIRST_TOKEN, REQUESTS, Steps

Recordings = Sequence[Sequence[Steps]]  # of one side: the phases of each of its recordings
TOKENS_TOLERANCE = 0.1  # two recordings of one length are never of exactly as many tokens
BATCH_TOLERANCE = 0.1
CONTEXT_TOLERANCE = 0.1
MIX_TOLERANCE = 0.1  # of all time: so much of it may be of another phase
MOST_PHASES = 6
COMMON = "work in common"  # of programs without tokens: a gate asks for it by this name
PROMPTS = "prompts of requests"
LEAST_COMMON = 0.5  # of either side's time


@dataclass(frozen=True, slots=True)
class Work:
    """One phase of one side, all its recordings together.

    `tokens`: what times are divided by, as `per` says it: tokens, or steps of a torch program. `context`: rows of the
    KV cache that a step reads, mean; None unknown.
    """

    steps: int
    measured: int  # steps whose operators are known
    tokens: int
    ns: float
    context: float | None
    cells: float | None  # of them, filled ones that its tokens read; None where not all batches tell
    per: str


def work(side: Recordings) -> dict[str, Work]:
    """By phase, the longest first; what clients wait for meanwhile is no work of its own."""
    found: dict[str, Work] = {}
    for phase in dict.fromkeys(steps.phase for recording in side for steps in recording):
        if phase in REQUESTS:
            continue
        parts = [steps for recording in side for steps in recording if steps.phase == phase]
        rows = np.concatenate([steps.all_context for steps in parts])
        cells = np.concatenate([steps.all_cells for steps in parts])
        found[phase] = Work(
            steps=sum(len(steps.all_ns) for steps in parts),
            measured=sum(len(steps.start_ns) for steps in parts),
            tokens=sum(int(steps.all_tokens.sum()) for steps in parts),
            ns=sum(float(steps.all_ns.sum()) for steps in parts),
            context=float(rows[rows > 0].mean()) if np.any(rows > 0) else None,
            cells=float(cells.mean()) if len(cells) == len(rows) and np.all(cells) and len(cells) else None,
            per=" or ".join(dict.fromkeys(steps.per for steps in parts)),
        )
    return dict(sorted(((phase, one) for phase, one in found.items() if one.steps), key=lambda item: -item[1].ns))


def differences(a: Recordings, b: Recordings) -> list[Difference]:
    """Phases, their mix, and of each phase on both sides its tokens, batches, contexts, and whether operators are
    known."""
    of_a, of_b = work(a), work(b)
    told = ", ".join(sorted(of_a)), ", ".join(sorted(of_b))
    if not of_a or not of_b:
        side = "either side" if not of_a and not of_b else "the side after" if of_a else "the side before"
        return [known.unknown("phases", told, f"no steps were recorded on {side}: there is nothing to compare")]
    shared = [phase for phase in of_a if phase in of_b]
    if not shared:
        why = "no phase ran on both sides: nothing can be compared"
        return [known.difference("phases", True, told, known.FORBIDS, why)]
    alone = [phase for phase in {**of_a, **of_b} if phase not in shared]
    why = f"{', '.join(alone)}: on one side only, and not compared"
    found = [known.difference("phases", bool(alone), told, 0.1, why), _mix(of_a, of_b)]
    for phase in shared[:MOST_PHASES]:
        found += _of_phase(phase, (of_a[phase], of_b[phase]), (len(a), len(b)))
        found += same_steps.differences(phase, a, b)
    if all(of_a[phase].per != "token" for phase in shared):
        found.append(_common(a, b, set(shared)))
    return [*found, *_prompts(a, b)]


def _prompts(a: Recordings, b: Recordings) -> list[Difference]:
    """Of requests whose first token is compared."""
    lengths = [
        [steps.all_context for recording in side for steps in recording if steps.phase == FIRST_TOKEN]
        for side in (a, b)
    ]
    if not all(lengths):
        return []
    each = [np.concatenate(side) for side in lengths]
    means = [[float(side[side > 0].mean())] if np.any(side > 0) else [None] for side in each]
    why = "a longer prompt has its first token later: that is not judged"
    return [known.numbers(PROMPTS, (means[0], means[1]), "tokens computed, mean", CONTEXT_TOLERANCE, 0.1, why)]


def normalisation(a: Recordings, b: Recordings) -> str:
    """What times are divided by, and why: never left unsaid."""
    of_a, of_b = work(a), work(b)
    shared = [phase for phase in of_a if phase in of_b][:2]
    if not shared:
        return "No phase ran on both sides: nothing is compared."
    counts = [f"{known.figure(of_a[one].tokens)} and {known.figure(of_b[one].tokens)} of {one}" for one in shared]
    per, ran = " or ".join(dict.fromkeys(of_a[one].per for one in shared)), ", ".join(counts)
    return f"Times are per {per} of their phase, for totals depend on how much ran: {ran} (before and after)."


def _mix(a: dict[str, Work], b: dict[str, Work]) -> Difference:
    shares_a, shares_b = _shares(a), _shares(b)
    moved = sum(abs(shares_a.get(phase, 0.0) - shares_b.get(phase, 0.0)) for phase in {**a, **b}) / 2
    why = "phases are compared one by one: the mix is not in any of their times"
    return known.difference("phase mix", moved > MIX_TOLERANCE, (_in_words(shares_a), _in_words(shares_b)), 0.05, why)


def _shares(found: dict[str, Work]) -> dict[str, float]:
    total = sum(one.ns for one in found.values()) or 1.0
    return {phase: one.ns / total for phase, one in found.items()}


def _in_words(shares: dict[str, float]) -> str:
    return ", ".join(f"{phase} {share * 100:.0f} % of the time" for phase, share in shares.items())


def _of_phase(phase: str, sides: tuple[Work, Work], recordings: tuple[int, int]) -> list[Difference]:
    a, b = sides
    found = [
        known.numbers(
            f"{a.per}s of {phase}", ([a.tokens / recordings[0]], [b.tokens / recordings[1]]), "in a recording",
            TOKENS_TOLERANCE, 0.1, "times are divided by them; the side with fewer is known less well",
        )
    ]  # fmt: skip
    if a.per != b.per:
        why = "a time of one side is of another stretch of work than one of the other"
        found.append(known.difference(f"unit of {phase}", True, (a.per, b.per), known.FORBIDS, why))
    elif a.per == "token":
        batches = [a.tokens / a.steps], [b.tokens / b.steps]
        why = "weights are read once for all tokens of a batch: a token of a larger one costs less"
        found.append(known.numbers(f"batch of {phase}", batches, "tokens a step, mean", BATCH_TOLERANCE, 0.3, why))
    if a.context is not None or b.context is not None:
        why = "attention reads all of the context: its part is not of equal work"
        filled = a.cells is not None and b.cells is not None
        contexts = ([a.cells], [b.cells]) if filled else ([a.context], [b.context])
        unit = "cells of the cache, mean" if filled else "rows of the cache, mean"
        found.append(known.numbers(f"context of {phase}", contexts, unit, CONTEXT_TOLERANCE, 0.2, why))
    if not a.measured or not b.measured:
        bare = "either side" if a.measured == b.measured else f"the side {'after' if a.measured else 'before'}"
        why = f"no operators were recorded on {bare}: only the whole phase is compared"
        told = f"{known.figure(a.measured)} steps", f"{known.figure(b.measured)} steps"
        found.append(known.unknown(f"operators of {phase}", told, why))
    return found


def _common(a: Recordings, b: Recordings, phases: set[str]) -> Difference:
    """A token is a token, but a step is whatever a program repeats: it is of the same work when the operators are."""
    of_a, of_b = _times(a, phases), _times(b, phases)
    shares = [sum(ns for what, ns in one.items() if what in other) / (sum(one.values()) or 1.0)
              for one, other in ((of_a, of_b), (of_b, of_a))]  # fmt: skip
    told = f"{shares[0] * 100:.0f} % of its time", f"{shares[1] * 100:.0f} % of its time"
    if not of_a or not of_b:
        return known.unknown(COMMON, ("", ""))
    why = "the sides have few operators in common: a step of one is other work than a step of the other"
    return known.difference(COMMON, min(shares) < LEAST_COMMON, told, known.FORBIDS, why)


def _times(side: Recordings, phases: set[str]) -> dict[tuple[str, str, str], float]:
    """ns by what was done, whatever its shape."""
    found: dict[tuple[str, str, str], float] = {}
    for steps in (steps for recording in side for steps in recording if steps.phase in phases):
        for group, ns in zip(steps.groups, steps.ns.sum(axis=0).tolist(), strict=True):
            if group.kind not in ("unattributed", "between"):
                what = (group.kind, group.op, group.tensor)
                found[what] = found.get(what, 0.0) + ns
    return found
