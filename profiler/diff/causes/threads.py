"""Another number of threads computes the graphs.

Fires when thread windows of both sides show pools of different sizes in a phase that changed (without such windows: an
estimate from the threads' processor time, with less confidence). With fewer threads each has more of the work: an
operator's own work may grow to as many times as there were more threads before, and the barrier's part may change with
the number that meets at it; up to so much of each row is explained. With more threads than processors, waiting for a
processor and at barriers is explained as well.

What to do: llama.cpp has --threads for decode and --threads-batch for prefill; OMP_NUM_THREADS elsewhere. The section
"Number of threads" of `flowprof report` says what another number would be worth at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes.change import Change, changes
from flowprof.profiler.diff.causes.claim import Cell, Claim
from flowprof.profiler.diff.causes.setup import agreed, processors, threads_estimated, threads_seen
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, Row
from flowprof.profiler.findings import Confidence

FLAGS = {"prefill": "--threads-batch"}


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        before, after, confidence = _counts(compared, change.phase)
        if before and after and before != after:
            found.append(_claim(compared, change, before, after, confidence))
    return found


def _counts(compared: Compared, phase: str) -> tuple[int, int, Confidence]:
    a, b = (agreed(side, threads_seen) or {} for side in (compared.pair.a, compared.pair.b))
    if phase in a and phase in b:
        return a[phase], b[phase], "high"
    if a and b and phase not in a and phase not in b:
        return max(a.values()), max(b.values()), "medium"
    a_guess, b_guess = (agreed(side, threads_estimated) or 0 for side in (compared.pair.a, compared.pair.b))
    return a_guess, b_guess, "low"


def _claim(compared: Compared, change: Change, before: int, after: int, confidence: Confidence) -> Claim:
    a_cpus, b_cpus = (agreed(side, processors) or 0 for side in (compared.pair.a, compared.pair.b))
    crowded = bool(b_cpus) and after > b_cpus
    fewer = before - after
    count = "One thread" if abs(fewer) == 1 else f"{abs(fewer)} threads"
    seen = "counted in thread windows" if confidence != "low" else "estimated from the threads' processor time"
    flag = FLAGS.get(change.phase, "--threads")
    return Claim(
        Cause(
            claim=f"{count} {'fewer' if fewer > 0 else 'more'} compute{'s' * (abs(fewer) == 1)} {change.phase}: "
            f"{before} → {after}" + (f", more than the {b_cpus} processors" if crowded and fewer < 0 else ""),
            kind="threads",
            share=None,
            confidence=confidence,
            evidence=(
                f"threads of the pool: {before} → {after}, {seen}",
                f"processors that they may use: {a_cpus or '?'} → {b_cpus or '?'}",
            ),
            next=f"Start it with {flag} {before} again (OMP_NUM_THREADS elsewhere) and compare.",
            phase=change.phase,
        ),
        explained(change, before, after, crowded),
    )


def explained(change: Change, before: int, after: int, crowded: bool) -> dict[Cell, float]:
    """Up to the change of the work per thread; barriers whatever they do; absences where the pool crowds."""
    found: dict[Cell, float] = {}
    for cell, ns in change.of(_computes).items():
        place, part = cell
        a_ns = change.rows[place].a_ns_per_token or 0.0
        if part == "work":
            limit = a_ns * (before / after - 1)
            if ns * limit > 0:
                found[cell] = min(ns, limit) if limit > 0 else max(ns, limit)
            elif crowded and ns > 0:
                found[cell] = ns
        elif part == "barrier" or (part == "runnable" and (crowded or ns < 0)):
            found[cell] = ns
    return found


def _computes(row: Row) -> bool:
    return row.kind in ("operator", "torch", "unattributed") and row.a_ns_per_token is not None
