"""A resource of the application is waited for longer.

Fires for resources whose waiting per token (or second) changed significantly between the sides; a server's batches and
slots are among them (request_waits.py), and what clients.py says of batches is not said again. Who held it in the later
side while others waited is named. Waits show in operators as time asleep, and between graphs: so much of what these
gained is explained, and no more than the waiting; where neither gained anything there is no share.

What to do: `flowprof report` on the slow recording gives the holder's function and line, the victims and the chain.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes import clients
from flowprof.profiler.diff.causes.change import at_most, changes, grown
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.request_waits import BATCH
from flowprof.profiler.diff.result import Cause, ResourceShift
from flowprof.profiler.diff.side import span
from flowprof.profiler.findings import in_ms


def causes(compared: Compared) -> Sequence[Claim]:
    found: list[Claim] = []
    prompts = clients.causes(compared)
    for shift in compared.resources:
        ns = (shift.b_waiting_ns or 0.0) - (shift.a_waiting_ns or 0.0)
        if not shift.significant or not ns or (shift.resource == BATCH[1] and prompts):
            continue
        slots = []
        if shift.per == "token":
            for change in changes(compared):
                cells = {
                    **change.of(parts=("blocked",)),
                    **change.of(lambda row: row.kind in ("between", "unattributed")),
                }
                slots.append((change.phase, at_most(grown(cells, 1.0 if ns > 0 else -1.0), abs(ns))))
        phase, explains = max(slots, key=lambda slot: abs(sum(slot[1].values()))) if slots else ("", {})
        if explains:
            found.append(Claim(_cause(shift, ns, phase), explains))
        else:  # it is waited for, and no row shows it: other threads do, or beside the work
            found.append(Claim(_cause(shift, ns, ""), ns=_per_token(shift, ns, compared), measured=False))
    return found


def _per_token(shift: ResourceShift, ns: float, compared: Compared) -> float:
    """Per token of the first phase, for the order of causes."""
    if shift.per == "token" or not compared.phases:
        return ns
    seconds = sum(end - begin for begin, end in map(span, compared.pair.b.recordings)) / 1e9
    return ns * seconds / max(compared.phases[0].b_tokens, 1)


def _cause(shift: ResourceShift, ns: float, phase: str) -> Cause:
    evidence = [
        f"waiting for it: {_time(shift.a_waiting_ns)} → {_time(shift.b_waiting_ns)} per {shift.per}",
        f"held: {_time(shift.a_hold_ns)} → {_time(shift.b_hold_ns)} per {shift.per}",
    ]
    behind = f", behind {shift.holder}" if shift.holder and ns > 0 else ""
    return Cause(
        claim=f"{shift.resource} is waited for {'longer' if ns > 0 else 'less'}{behind}",
        kind="resource",
        share=None,
        confidence="high" if shift.holder else "medium",
        evidence=tuple(evidence),
        next="Run flowprof report on the slow recording: it has the holder's function and line, and the chain.",
        phase=phase,
    )


def _time(ns: float | None) -> str:
    return "not recorded" if ns is None else in_ms(ns)
