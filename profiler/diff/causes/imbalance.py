"""Threads wait longer for each other at barriers, and nobody kept one of them from its processor.

Fires when what the barriers' imbalance exceeds absences by grew in a phase that changed, by 2 % of it or more. The work
is divided less evenly, or one thread's processor became slower: which thread waits least is in the evidence, for the
others wait for that one.

What to do: see what shares the slowest thread's core (a hyper-thread sibling, an efficiency core, an interrupt); other
sizes of matrices and other numbers of threads divide differently.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from flowprof.profiler.analyzers.absence import splits
from flowprof.profiler.diff.causes.change import Change, changes, grown, total
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Side
from flowprof.profiler.findings import in_ms

MIN_SHARE = 0.02


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        barrier = change.of(parts=("barrier",))
        if abs(total(barrier)) >= MIN_SHARE * max(change.shift.a_ns_per_token, 1.0):
            sign = 1.0 if total(barrier) > 0 else -1.0
            found.append(Claim(_cause(compared, change, total(barrier)), grown(barrier, sign)))
    return found


def _cause(compared: Compared, change: Change, ns: float) -> Cause:
    evidence = [
        f"imbalance at barriers beyond absences: {in_ms(abs(ns))} per {change.per} {'more' if ns > 0 else 'less'}"
    ]
    for name, side in (("before", compared.pair.a), ("after", compared.pair.b)):
        shares = _waiting(side, change.phase)
        if shares:
            each = ", ".join(f"thread {ith} {share * 100:.0f} %" for ith, share in sorted(shares.items())[:8])
            evidence.append(f"{name}, of their time at barriers: {each}")
    return Cause(
        claim=f"Threads wait {'longer' if ns > 0 else 'less'} for each other at barriers",
        kind="imbalance",
        share=None,
        confidence="medium",
        evidence=tuple(evidence),
        next="Find what slows the thread that waits least: a sibling hyper-thread, an efficiency core, interrupts.",
        phase=change.phase,
    )


def _waiting(side: Side, phase: str) -> dict[int, float]:
    """Share of its time that each thread of the pool waits at barriers."""
    wall: dict[int, int] = defaultdict(int)
    barrier: dict[int, int] = defaultdict(int)
    for recording in side.recordings:
        for row in splits(recording):
            if row.phase == phase:
                wall[row.ith] += row.wall_ns
                barrier[row.ith] += row.barrier_ns
    return {ith: barrier[ith] / ns for ith, ns in wall.items() if ns}
