"""What the verdict is where no phase tells it: by resources, where no steps ran, and by prompts of other clients.

* Without steps to test (a program without graphs), a resource whose waiting changed significantly makes the verdict:
  slower or faster by what changed most. A limit in per cent (`--gate`) is of phases, and is not held against it.
* Where phases are the same and requests wait for the prompts of others, the sides are not: by how much is not known.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.result import Cause, PhaseShift, ResourceShift, Verdict
from flowprof.profiler.findings import in_ms

Judged = tuple[Verdict, str]


def judged(
    so_far: Judged, phases: Sequence[PhaseShift], resources: Sequence[ResourceShift], causes: Sequence[Cause]
) -> Judged:
    """The verdict and its sentence; `so_far`: by phases."""
    verdict, headline = so_far
    if verdict == "not enough data" and not any(phase.q is not None for phase in phases):
        changed = [one for one in resources if one.significant]
        return _waited(max(changed, key=lambda one: abs(_more(one)))) if changed else so_far
    told = next((cause.claim for cause in causes if cause.kind == "client"), "")
    if verdict == "same" and told:
        return "not enough data", f"{headline}; but this differs, and no phase tells by how much all wait: {told}"
    return so_far


def _waited(one: ResourceShift) -> Judged:
    longer = _more(one) > 0
    behind = f", behind {one.holder}" if one.holder and longer else ""
    return "slower" if longer else "faster", (
        f"{one.resource} is waited for {'longer' if longer else 'less'}: {in_ms(one.a_waiting_ns or 0.0)} → "
        f"{in_ms(one.b_waiting_ns or 0.0)} per {one.per}, all waiters together{behind} (there are no steps to compare)"
    )


def _more(one: ResourceShift) -> float:
    return (one.b_waiting_ns or 0.0) - (one.a_waiting_ns or 0.0)
