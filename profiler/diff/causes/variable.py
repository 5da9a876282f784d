"""A variable of the program has values that it never had in the normal runs, and its function takes longer.

Fires for every variable that the diff found shifted (variables.py tests and corrects for their number; its distance is
Hellinger's, 0 alike … 1 nothing in common). Those whose function grew come first, by how much; that growth is a part of
the program's time that rows may hold as well, so it has a share only of the time between graphs, where functions of
the host run.

What to do: look at the line that the claim names, and at what sets the variable: a flag, a configuration, an input.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes.change import at_most, changes, grown
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, VariableShift
from flowprof.profiler.findings import in_ms


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for shift in compared.variables:  # in the order that variables.py gives reasons for
        cost = shift.cost_ns_per_token or 0.0
        explains, phase = {}, ""
        for change in changes(compared)[:1]:
            explains = at_most(grown(change.of(lambda row: row.kind == "between"), change.sign), abs(cost))
            phase = change.phase if explains else ""
        found.append(Claim(_cause(shift, cost, phase), explains, 0.0 if explains else cost, measured=bool(explains)))
    return found


def _cause(shift: VariableShift, cost: float, phase: str) -> Cause:
    normal = _range(shift.a_range)
    named = bool(shift.function) and not shift.name.startswith(f"{shift.function}(")  # --watch 'look_up(limit)'
    where = " ".join(filter(None, (f"in {shift.function}" * named, f"({shift.source})" * bool(shift.source))))
    evidence = [
        f"{shift.view} in normal runs: {normal}, median {shift.a_median:g}; now {_range(shift.b_range)}, median "
        f"{shift.b_median:g} (Hellinger distance {shift.distance:.2f}, q {shift.q:.2g})"
    ]
    if shift.since_ns is not None:
        evidence.append(f"outside of the normal range since {shift.since_ns / 1e9:.3f} s after the recording began")
    if cost:
        evidence.append(f"its function takes {in_ms(abs(cost))} per token {'more' if cost > 0 else 'less'}")
    return Cause(
        claim=f"{shift.name} {where} {_verb(shift)} {shift.b_median:g} instead of {shift.a_median:g}".replace(
            "  ", " "
        ),
        kind="variable",
        share=None,
        confidence="high" if cost > 0 else "medium",
        evidence=tuple(evidence),
        next=f"Look at {shift.source or shift.function or 'what sets it'}: a flag, a configuration or an input that "
        "changed it.",
        phase=phase,
    )


def _verb(shift: VariableShift) -> str:
    return {"value": "is", "delta": "changes by", "duration": "keeps a value for"}.get(shift.view, "is")


def _range(values: tuple[float, float]) -> str:
    return f"{values[0]:g}" if values[0] == values[1] else f"{values[0]:g} … {values[1]:g}"
