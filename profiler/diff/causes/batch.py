"""Another number of tokens passes through a graph: a smaller or larger batch.

Fires when the tokens per graph that a token of the phase finds itself with (the mean weighted by tokens) differ by a
quarter. Every graph reads the weights once and has its fixed costs, whatever the number of tokens: per token these are
divided by it. Of each row at most the change in that proportion is explained, and of the time between graphs likewise.

Where requests are known, the evidence tells the lengths of their prompts: prompts as long as before were cut smaller
(--ubatch-size, --batch-size); shorter ones fill no batch. In decode it is the number of sequences at once.

What to do: --ubatch-size and --batch-size for prefill; in decode compare under the same number of clients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flowprof.profiler.analyzers.requests import all_requests
from flowprof.profiler.diff.causes.change import Change, changes
from flowprof.profiler.diff.causes.claim import Cell, Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Side
from flowprof.profiler.diff.steps.steps import Steps

LEAST_RATIO = 1.25


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        before, after = per_graph(compared.a_steps, change.phase), per_graph(compared.b_steps, change.phase)
        if not before or not after or max(before, after) < LEAST_RATIO * min(before, after):
            continue
        found.append(_claim(compared, change, before, after))
    return found


def per_graph(steps: Sequence[Sequence[Steps]], phase: str) -> float | None:
    """Tokens in the graph of a token, on average."""
    counts = [one.all_tokens if len(one.all_tokens) else one.tokens
              for recording in steps for one in recording if one.phase == phase]  # fmt: skip
    tokens = np.concatenate(counts).astype(float) if counts else np.zeros(0)
    return _seen_by_tokens(tokens)


def _explained(change: Change, before: float, after: float) -> dict[Cell, float]:
    found: dict[Cell, float] = {}
    for cell, ns in change.of(parts=("work", "barrier")).items():
        row = change.rows[cell[0]]
        if row.a_ns_per_token is None:
            continue
        limit = row.a_ns_per_token * (before / after - 1)
        if ns * limit > 0:
            found[cell] = min(ns, limit) if limit > 0 else max(ns, limit)
    return found


def _claim(compared: Compared, change: Change, before: float, after: float) -> Claim:
    decode = change.phase == "decode"
    smaller = after < before
    evidence = [f"tokens per graph, as a token of {change.phase} finds them: {before:.3g} → {after:.3g}"]
    a_bytes, b_bytes = ([row.bytes[side] for row in change.rows.values()] for side in (0, 1))
    if all(any(value is not None for value in side) for side in (a_bytes, b_bytes)):
        a_sum, b_sum = (sum(value or 0.0 for value in side) for side in (a_bytes, b_bytes))
        evidence.append(f"bytes that the operators move: {a_sum / 1e6:.4g} → {b_sum / 1e6:.4g} MB per {change.per}")
    prompts = _prompt(compared.pair.a), _prompt(compared.pair.b)
    cut = False
    if not decode and prompts[0] and prompts[1]:
        evidence.append(f"prompts have {prompts[0]:.0f} → {prompts[1]:.0f} tokens (as a token finds them)")
        cut = prompts[1] >= after * LEAST_RATIO and prompts[1] * LEAST_RATIO >= prompts[0]
    if decode:
        claim = (
            f"{'Fewer' if smaller else 'More'} sequences decode at once: {before:.3g} → {after:.3g} tokens per graph"
        )
        then = "Compare under the same number of clients; --parallel sets how many slots there are."
    else:
        why = ": prompts are cut smaller" if cut and smaller else ""
        claim = f"Batches are {'smaller' if smaller else 'larger'}{why}, {before:.3g} → {after:.3g} tokens per graph"
        then = "Set --ubatch-size and --batch-size as before" + (
            "." if cut else "; or compare prompts of the same length."
        )
    return Claim(
        Cause(
            claim=claim, kind="batch", share=None, confidence="high" if cut or decode else "medium",
            evidence=tuple(evidence), next=then, phase=change.phase,
        ),
        _explained(change, before, after),
    )  # fmt: skip


def _prompt(side: Side) -> float | None:
    """The length of the prompt of a token, on average; None: not known."""
    each = [row.prompt_tokens for one in side.recordings for row in all_requests(one).rows if row.prompt_tokens]
    return _seen_by_tokens(np.array(each, float))


def _seen_by_tokens(sizes: np.ndarray) -> float | None:
    """The mean weighted by size; None of nothing."""
    return float((sizes**2).sum() / sizes.sum()) if sizes.sum() else None
