"""A cgroup's quota of processor time holds the engine's threads up: docker --cpus, Kubernetes' limits.

Fires when the time that pool threads could have run, and did not, grew in a phase that changed, by 2 % of the phase or
more, and half of what it grew by is what the kernel's own account of the quota (throttled time, of all phases) explains
of it. Without that account, as of `--self`, threads that are kept off idle processors are preemption.py's. Explained is
what grew of the rows' time without a processor, and of the imbalance at barriers what that can have made (behind.py).

What to do: raise cpu.max (docker --cpus, the pod's CPU limit), or start no more --threads than the quota has
processors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flowprof.profiler.analyzers.absence import losses, quotas
from flowprof.profiler.analyzers.absence import total as sum_of
from flowprof.profiler.analyzers.wait_findings import RAISE_QUOTA, of_quota
from flowprof.profiler.diff.causes.behind import behind
from flowprof.profiler.diff.causes.change import Change, changes, grown, total
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.causes.preemption import MIN_SHARE
from flowprof.profiler.diff.causes.setup import agreed
from flowprof.profiler.diff.comparability import set_up
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Side
from flowprof.profiler.findings import in_ms

MOST_OF_IT = 0.5


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        runnable = change.of(parts=("runnable",))
        ns = total(runnable)
        if abs(ns) < MIN_SHARE * max(change.shift.a_ns_per_token, 1.0):
            continue
        sign = 1.0 if ns > 0 else -1.0
        a, b = _waits(compared.pair.a, change.phase), _waits(compared.pair.b, change.phase)
        each = change.shift.a_tokens or 1, change.shift.b_tokens or 1
        grew, held = (sign * (after / each[1] - before / each[0]) for before, after in zip(a, b, strict=True))
        if grew > 0 and held >= MOST_OF_IT * grew:
            cause = _cause(compared, change, sign, (a[1] / each[0], b[1] / each[1]))
            found.append(Claim(cause, {**grown(runnable, sign), **behind(compared, change, ns)}))
    return found


def _waits(side: Side, phase: str) -> tuple[float, float]:
    """ns that pool threads could have run in graphs of the phase, and did not; and how much of that a quota explains,
    of each process in the proportion of all its phases."""
    waited = held = 0.0
    for recording in side.recordings:
        runnable = [loss for loss in losses(recording) if loss.state == "runnable"]
        whole = Counter[int]()
        for loss in runnable:
            whole[loss.pid] += sum_of(loss.causes)
        for loss in runnable:
            if loss.phase == phase and whole[loss.pid]:
                ns, quota = sum_of(loss.causes), quotas(recording).get(loss.pid)
                waited += ns
                held += ns * min(1.0, quota.throttled_ns / whole[loss.pid]) if quota is not None else 0.0
    return waited, held


def _cause(compared: Compared, change: Change, sign: float, held: tuple[float, float]) -> Cause:
    """held: by the quota, ns per token of both sides."""
    sides = compared.pair.a, compared.pair.b
    before, after = (agreed(side, set_up.quota) or "" for side in sides)
    every = [one for recording in sides[sign > 0].recordings for one in quotas(recording).values()]
    claim = "The quota of its cgroup keeps the engine's threads off the processors"
    if sign < 0:
        claim += " less than before"
    return Cause(
        claim=f"{claim}: {before} → {after}" if before and after and before != after else claim,
        kind="quota",
        share=None,
        confidence="high",
        evidence=(
            f"pool threads that it held up in {change.phase} graphs, by the kernel's account: {in_ms(held[0])} → "
            f"{in_ms(held[1])} per {change.per}",
            f"{'after' if sign > 0 else 'before'}: {of_quota(max(every, key=lambda one: one.throttled_ns))}",
        ),
        next=RAISE_QUOTA,
        phase=change.phase,
    )
