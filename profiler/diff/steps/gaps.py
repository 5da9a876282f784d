"""The time between graphs counts on both sides, or on neither.

A decode step is as long as its graph and the gap before it, where steps follow one another. With answers of two tokens
every decode step follows a prompt, and has no gap that is known: its side would look faster by what only the other side
counts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from flowprof.profiler.diff.steps.steps import Steps

PAUSES = 0.05  # of a phase's time: less is not told

Recordings = tuple[tuple[Steps, ...], ...]  # of one side: the phases of each


def alike(a: Recordings, b: Recordings) -> tuple[Recordings, Recordings, tuple[str, ...]]:
    """Both sides with gaps in the same phases, and what was done to them in words."""
    kinds: dict[str, set[bool]] = {}
    for recording in (*a, *b):
        for steps in recording:
            if len(steps.all_ns):
                kinds.setdefault(steps.phase, set()).add(len(steps.all_gap_ns) > 0)
    apart = {phase for phase, found in kinds.items() if len(found) > 1}
    if not apart:
        return a, b, ()
    notes = tuple(
        f"{phase} is compared without the time between its graphs: in one recording hardly any steps follow one another"
        for phase in sorted(apart)
    )
    a, b = (
        tuple(tuple(_without(steps) if steps.phase in apart else steps for steps in recording) for recording in side)
        for side in (a, b)
    )
    return a, b, notes


def pauses(a: Recordings, b: Recordings) -> tuple[str, ...]:
    """What was taken as an idle server although nothing says that it was."""
    found = []
    for side, name in ((a, "normal"), (b, "other")):
        for recording in side:
            for steps in recording:
                count, ns = len(steps.pause_ns), float(steps.pause_ns.sum())
                if ns > PAUSES * (float(steps.all_ns.sum()) + ns):
                    found.append(
                        f"the {name} side has {count} pauses of {ns / count / 1e6:.3g} ms on average between steps of "
                        f"{steps.phase}, which count as an idle server: no request is known, so nothing tells otherwise"
                    )
    return tuple(dict.fromkeys(found))


def _without(steps: Steps) -> Steps:
    if not len(steps.all_gap_ns):
        return steps
    kept = [at for at, group in enumerate(steps.groups) if group.kind != "between"]
    return replace(
        steps,
        groups=tuple(steps.groups[at] for at in kept),
        facts=tuple(steps.facts[at] for at in kept),
        ns=steps.ns[:, kept],
        all_ns=steps.all_ns - steps.all_gap_ns,
        all_gap_ns=np.zeros(0),
    )
