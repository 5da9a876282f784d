"""The time between graphs changed: sampling, the server's own work, or whatever drives the engine.

Fires when the row of the time between graphs changed significantly. Where operators meanwhile changed the other way
(by half as much or more) the claim says which hides which: a faster kernel gains nothing while the host sets the pace.

What to do: samplers and grammars (their cost goes with the vocabulary), logging, the client's own pace, tokenisation;
`flowprof attach --resources llama-server` shows queues and slots, and stacks of a sampling profiler the function.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes.change import HOST, Change, changes, total
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.steps import of_gpu
from flowprof.profiler.findings import in_ms


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        if change.phase.startswith(of_gpu.PHASE):
            continue  # what is between a device's kernels is idle time: masked.py
        rows = [row for row in change.rows.values() if row.kind == "between" and row.significant]
        if rows:
            found.append(_claim(change, sum(row.delta_ns_per_token for row in rows)))
    return found


def _claim(change: Change, ns: float) -> Claim:
    shift = change.shift
    inside = total(change.of(lambda row: row.kind not in HOST))
    hides = inside * ns < 0 and abs(inside) >= 0.5 * abs(ns)
    words = "grew" if ns > 0 else "fell"
    between = "between graphs" if change.per == "token" else "between iterations"
    evidence = [
        f"{between}: {in_ms(abs(ns))} per {change.per} {'more' if ns > 0 else 'less'}",
        f"operators: {in_ms(abs(inside))} per {change.per} {'more' if inside > 0 else 'less'}; the whole "
        f"{change.phase}: {in_ms(shift.a_ns_per_token)} → {in_ms(shift.b_ns_per_token)} per {change.per}",
    ]
    claim = f"The time {between} {words}"
    if hides:
        claim += f", and {'hides what the operators gained' if ns > 0 else 'hides that operators became slower'}"
    return Claim(
        Cause(
            claim=claim, kind="host", share=None, confidence="high", evidence=tuple(evidence),
            next="Look at samplers and grammars, logging, the clients' pace; --resources llama-server shows queues.",
            phase=change.phase,
        ),
        change.of(lambda row: row.kind == "between"),
    )  # fmt: skip
