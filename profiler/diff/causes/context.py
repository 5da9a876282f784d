"""The context that attention reads is longer (or shorter).

Fires when the rows of the KV cache that attention reads (n_kv, from the shapes of the graphs) differ by a quarter and
256, llama.cpp's padding, in a phase that changed. Only what reads the cache is explained (flash attention, or KQ,
softmax and KQV), each row by at most twice what its time would be in proportion to the context (a cache that no longer
fits the processor's is read from memory); weights are not.

Where both sides have decode steps of the same n_kv, twenty or more each, what reads the cache is compared there, too:
the factor by which it differs at equal context is not the context's doing, and is taken off.

What to do: compare runs with prompts and answers of the same length; else flash attention, a quantised cache (-ctk,
-ctv), a shorter context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.diff.causes.change import Change, changes
from flowprof.profiler.diff.causes.claim import Cell, Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Side
from flowprof.profiler.diff.steps import Steps
from flowprof.profiler.findings import in_ms
from flowprof.profiler.store import read_sql

LEAST_RATIO, LEAST_ROWS = 1.25, 256
BEYOND = 2.0  # times the proportion
ENOUGH_STEPS = 20


@dataclass(frozen=True, slots=True)
class AtEqual:
    """Time of what reads the cache, at the contexts that both sides have; ns per step."""

    contexts: tuple[int, ...]
    steps: tuple[int, int]
    a_ns: float
    b_ns: float


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        before, after = rows_read(compared.a_steps, change.phase), rows_read(compared.b_steps, change.phase)
        if not before or not after or abs(after - before) < LEAST_ROWS:
            continue
        if max(before, after) < LEAST_RATIO * min(before, after):
            continue
        equal = _at_equal(compared) if change.phase == "decode" else None
        explains = _explained(compared, change, after / before, equal)
        if explains:
            found.append(_claim(change, (before, after), explains, equal))
    return found


def rows_read(steps: Sequence[Sequence[Steps]], phase: str) -> float | None:
    """Rows of the cache that attention reads in a phase, the mean over recordings; None: not known."""
    found = []
    for recording in steps:
        for one in recording:
            rows = [fact.context for fact in one.facts if fact.context is not None]
            if one.phase == phase and rows:
                found.append(max(rows))  # layers with a sliding window read fewer
    return float(np.mean(found)) if found else None


def reads_cache(steps: Sequence[Sequence[Steps]], phase: str) -> set[tuple[str, str]]:
    """(op, shape) of what reads the cache."""
    return {
        (group.op, group.shape)
        for recording in steps for one in recording if one.phase == phase
        for group, fact in zip(one.groups, one.facts, strict=True) if fact.context is not None
    }  # fmt: skip


def _explained(compared: Compared, change: Change, ratio: float, equal: AtEqual | None) -> dict[Cell, float]:
    a, b = reads_cache(compared.a_steps, change.phase), reads_cache(compared.b_steps, change.phase)
    found = {}
    for cell, ns in change.of(parts=("work", "barrier")).items():
        row = change.rows[cell[0]]
        if (row.op, row.shape) not in a or (row.op, row.b_shape or row.shape) not in b or row.a_ns_per_token is None:
            continue
        limit = _limit(row.a_ns_per_token, row.b_ns_per_token or 0.0, ratio, equal)
        if ns * (ratio - 1) > 0 and limit * (ratio - 1) > 0:
            found[cell] = min(ns, limit, key=abs)
    return found


def _limit(a_ns: float, b_ns: float, ratio: float, equal: AtEqual | None) -> float:
    """The most that the context may have changed a row by, ns per token."""
    if equal is not None:
        return b_ns * equal.a_ns / equal.b_ns - a_ns
    return a_ns * (ratio * BEYOND - 1) if ratio > 1 else a_ns * (ratio / BEYOND - 1)


def _claim(change: Change, rows: tuple[float, float], explains: dict[Cell, float], equal: AtEqual | None) -> Claim:
    before, after = rows
    longer = after > before
    ops = sorted({change.rows[place].op for place, _ in explains})
    read = [change.rows[place] for place in {place for place, _ in explains}]
    a_ns, b_ns = (sum(row.a_ns_per_token or 0 for row in read), sum(row.b_ns_per_token or 0 for row in read))
    evidence = [
        f"rows of the KV cache that attention reads: {before:,.0f} → {after:,.0f} ({after / before:.2g}x)",
        f"what reads them ({', '.join(ops)}): {in_ms(a_ns)} → {in_ms(b_ns)} per token",
    ]
    if equal:
        contexts = f"{equal.contexts[0]:,}" + (f" … {equal.contexts[-1]:,}" if len(equal.contexts) > 1 else "")
        evidence.append(
            f"at equal context ({contexts}; {equal.steps[0]} and {equal.steps[1]} steps) it takes "
            f"{in_ms(equal.a_ns)} and {in_ms(equal.b_ns)} a step: {in_ms(equal.b_ns - equal.a_ns)} remains"
        )
    else:
        evidence.append("no steps at a context that both have")
    rest = change.of(lambda row: row not in read and row.a_ns_per_token is not None and row.kind == "operator")
    evidence.append(f"other operators, which do not read the cache: {in_ms(sum(rest.values()))} per token")
    return Claim(
        Cause(
            claim=f"Attention reads a {'longer' if longer else 'shorter'} context: {before:,.0f} → {after:,.0f} "
            "rows of the KV cache",
            kind="context",
            share=None,
            confidence="high",
            evidence=tuple(evidence),
            next="Compare prompts and answers of the same length; if the context is meant: flash attention, a "
            "quantised cache (-ctk, -ctv), or a shorter one.",
            phase=change.phase,
        ),
        explains,
    )


def _at_equal(compared: Compared) -> AtEqual | None:
    a, b = _decode(compared.pair.a), _decode(compared.pair.b)
    common = [n for n in np.intersect1d(a[0], b[0]).tolist() if _enough(a, n) and _enough(b, n)]
    if not common:
        return None
    times = [[float(np.median(side[1][side[0] == n])) for n in common] for side in (a, b)]
    steps = [sum(int((side[0] == n).sum()) for n in common) for side in (a, b)]
    return AtEqual(tuple(map(int, common)), (steps[0], steps[1]), float(np.mean(times[0])), float(np.mean(times[1])))


def _enough(side: tuple[np.ndarray, np.ndarray], context: float) -> bool:
    return int((side[0] == context).sum()) >= ENOUGH_STEPS


def _decode(side: Side) -> tuple[np.ndarray, np.ndarray]:
    """n_kv and the time of what reads it (ns), of every measured decode step."""
    contexts, times = [], []
    for recording in side.recordings:
        found = recording.columns(read_sql("drift_steps.sql"))
        ns = np.ma.filled(np.ma.asarray(found["attention_ns"]).astype(float), np.nan)
        known = ~np.isnan(ns)
        contexts.append(np.asarray(np.ma.filled(found["n_kv"], 0), float)[known])
        times.append(ns[known])
    return np.concatenate(contexts), np.concatenate(times)
