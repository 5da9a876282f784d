"""The context that attention reads is longer (or shorter).

Fires when what attention reads of the KV cache differs by a quarter in a phase that changed: its filled cells where
llama-server's batches tell; else n_kv, from the shapes of the graphs, which must differ by llama.cpp's padding of 256
as well. Only what reads the cache is explained (flash attention, or KQ, softmax and KQV), each row by at most twice
what its time would be in proportion to the context (a cache that no longer fits the processor's is read from memory);
weights are not.

Where both sides have steps at the same context, enough to be tested, what reads the cache is compared there, too, row
by row: the factor by which it differs at equal context is not the context's doing, and is taken off. Then contexts that
are less far apart count as well.

What to do: compare runs with prompts and answers of the same length; else flash attention, a quantised cache (-ctk,
-ctv), a shorter context.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flowprof.profiler.diff.causes.change import Change, changes
from flowprof.profiler.diff.causes.claim import Cell, Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, Row
from flowprof.profiler.diff.steps.contexts import CELLS
from flowprof.profiler.diff.steps.steps import Steps
from flowprof.profiler.findings import in_ms

LEAST_RATIO = 1.25
LEAST = {"cells": CELLS, "rows": 256}
BEYOND = 2.0  # times the proportion


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        before, after, unit = _lengths(compared, change.phase)
        if not before or not after or before == after:
            continue
        far = abs(after - before) >= LEAST[unit] and max(before, after) >= LEAST_RATIO * min(before, after)
        explains = _explained(compared, change, after / before, far)
        if explains:
            found.append(_claim(change, (before, after), unit, explains))
    return found


def _lengths(compared: Compared, phase: str) -> tuple[float | None, float | None, str]:
    """The contexts of both sides: filled cells where all batches tell, else rows (n_kv)."""
    sides = compared.a_steps, compared.b_steps
    before, after = (cells_read(side, phase) for side in sides)
    if before and after:
        return before, after, "cells"
    before, after = (rows_read(side, phase) for side in sides)
    return before, after, "rows"


def cells_read(steps: Sequence[Sequence[Steps]], phase: str) -> float | None:
    """Cells of the cache that measured steps read, the mean over recordings; None: batches do not tell."""
    found = [
        one.all_cells[one.place]
        for recording in steps for one in recording if one.phase == phase and len(one.place) and len(one.all_cells)
    ]  # fmt: skip
    return float(np.mean([one.mean() for one in found])) if found and all(one.all() for one in found) else None


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


def _explained(compared: Compared, change: Change, ratio: float, far: bool) -> dict[Cell, float]:
    a, b = reads_cache(compared.a_steps, change.phase), reads_cache(compared.b_steps, change.phase)
    found = {}
    for cell, ns in change.of(parts=("work", "barrier")).items():
        row = change.rows[cell[0]]
        if (row.op, row.shape) not in a or (row.op, row.b_shape or row.shape) not in b or row.a_ns_per_token is None:
            continue
        if not far and not _known_at_equal(row):
            continue
        limit = _limit(row, ratio)
        if ns * (ratio - 1) > 0 and limit * (ratio - 1) > 0:
            found[cell] = min(ns, limit, key=abs)
    return found


def _known_at_equal(row: Row) -> bool:
    return row.equal is not None and row.equal.ci95 is not None and row.equal.b_ns_per_token > 0


def _limit(row: Row, ratio: float) -> float:
    """The most that the context may have changed a row by, ns per token."""
    a_ns, b_ns = row.a_ns_per_token or 0.0, row.b_ns_per_token or 0.0
    if row.equal is not None and _known_at_equal(row):
        return b_ns * row.equal.a_ns_per_token / row.equal.b_ns_per_token - a_ns
    return a_ns * (ratio * BEYOND - 1) if ratio > 1 else a_ns * (ratio / BEYOND - 1)


def _claim(change: Change, lengths: tuple[float, float], unit: str, explains: dict[Cell, float]) -> Claim:
    before, after = lengths
    longer = after > before
    ops = sorted({change.rows[place].op for place, _ in explains})
    read = [change.rows[place] for place in {place for place, _ in explains}]
    a_ns, b_ns = (sum(row.a_ns_per_token or 0 for row in read), sum(row.b_ns_per_token or 0 for row in read))
    evidence = [
        f"{unit} of the KV cache that attention reads: {before:,.0f} → {after:,.0f} ({after / before:.2g}x)",
        f"what reads them ({', '.join(ops)}): {in_ms(a_ns)} → {in_ms(b_ns)} per token",
    ]
    evidence.append(_at_equal(read, change.per))
    rest = change.of(lambda row: row not in read and row.a_ns_per_token is not None and row.kind == "operator")
    evidence.append(f"other operators, which do not read the cache: {in_ms(sum(rest.values()))} per token")
    return Claim(
        Cause(
            claim=f"Attention reads a {'longer' if longer else 'shorter'} context: {before:,.0f} → {after:,.0f} "
            f"{unit} of the KV cache",
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


def _at_equal(rows: Sequence[Row], per: str) -> str:
    equal = [row.equal for row in rows if row.equal is not None and row.equal.ci95 is not None]
    if not equal:
        return "too few steps at a context that both have"
    (low, high), steps = equal[0].contexts, equal[0].steps
    contexts = f"{low:,}" + (f" … {high:,}" if high > low else "")
    a_ns, b_ns = sum(one.a_ns_per_token for one in equal), sum(one.b_ns_per_token for one in equal)
    return (
        f"at equal context ({contexts}; {steps[0]} and {steps[1]} steps) it takes {in_ms(a_ns)} and {in_ms(b_ns)} per "
        f"{per}: {in_ms(b_ns - a_ns)} remains"
    )
