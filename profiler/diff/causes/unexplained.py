"""What no rule explains, as claims that say so: rows of which half is left over, and a phase of which half is.

Of a row the place is known, and the reason is not. Where the phase changed and most of that is in no row that changed
by itself (each by less than runs of one program differ, or operators were not recorded), the phase is the claim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from flowprof.profiler.diff.causes.broad import largest
from flowprof.profiler.diff.causes.change import HOST, Change, worth_telling
from flowprof.profiler.diff.causes.claim import Cell
from flowprof.profiler.diff.result import Cause, Row
from flowprof.profiler.diff.steps.steps import REQUESTS
from flowprof.profiler.findings import in_ms

LEFT_OVER = 0.5  # of a row, of a phase
COUNTERS = "Record both sides with --counters all; flowprof report on each tells what bounds it."


def rows(
    change: Change, left: Mapping[Cell, float], min_share: float, others: Sequence[str], explained: bool
) -> list[tuple[Cause, float]]:
    """Rows of which half is left over, with what is left; where the phase as a whole did not change, also those with a
    longer tail. others: what differs besides; explained: the phase has a claim already."""
    shift = change.shift
    least = min_share * abs(shift.delta_ns_per_token) if shift.significant else 0.0
    open_ns: dict[int, float] = defaultdict(float)
    for (place, _), ns in left.items():
        if place in change.rows:
            open_ns[place] += ns
    changed = {
        place: ns for place, ns in open_ns.items()
        if change.rows[place].significant
        and ns * change.rows[place].delta_ns_per_token > 0
        and abs(ns) >= max(LEFT_OVER * abs(change.rows[place].delta_ns_per_token), least)
    }  # fmt: skip
    touched = {cell[0] for cell, ns in left.items() if ns != change.cells.get(cell)}
    tails = {
        place: (row.b_tail_ns or 0.0) - (row.a_tail_ns or 0.0)
        for place, row in change.rows.items()
        if row.tail_significant and not row.significant and not shift.significant and place not in touched
    }
    needed = not explained and (shift.significant or shift.tail_significant)  # else a trifle is none's cause
    told = worth_telling(change, changed, needed)
    told += worth_telling(change, tails, needed and not told)
    return [(_row(change, change.rows[place], open_ns[place], others), open_ns[place]) for place in told]


def rest(
    change: Change, left: Mapping[Cell, float], explained_ns: float, others: Sequence[str]
) -> list[tuple[Cause, float]]:
    """The phase, where it changed and other claims have less than half of that; one or none."""
    shift = change.shift
    ns = shift.delta_ns_per_token - explained_ns
    if not shift.significant or ns * change.sign <= LEFT_OVER * abs(shift.delta_ns_per_token):
        return []
    cells = {
        cell: value for cell, value in left.items()
        if value * change.sign > 0 and cell[0] in change.rows and change.rows[cell[0]].kind not in HOST
    }  # fmt: skip
    percent = abs(shift.delta_ns_per_token) / shift.a_ns_per_token * 100 if shift.a_ns_per_token else 0.0
    longer = f"{percent:.3g} % {'longer' if change.sign > 0 else 'less'}"
    evidence = [f"{in_ms(shift.a_ns_per_token)} → {in_ms(shift.b_ns_per_token)} per {change.per} of {change.phase}"]
    if cells:
        evidence += ["no single operator changed by more than two runs of one program differ", *largest(change, cells)]
    elif change.phase in REQUESTS:
        evidence.append("no phase of graphs changed that way, and no prompt of another client delayed them")
    else:
        evidence.append("its operators are not known on both sides, or did not change that way")
    how_much = "it" if not explained_ns else f"{ns / shift.delta_ns_per_token * 100:.0f} % of that"
    cause = Cause(
        claim=f"{change.phase} takes {longer}; nothing recorded explains {how_much}",
        kind="unexplained",
        share=change.share(ns),
        confidence="low",
        evidence=(*evidence, *others),
        next="Give several normal recordings (--normal A B C), which tell what the machine does by itself. " + COUNTERS,
        phase=change.phase,
    )
    return [(cause, ns)]


def _row(change: Change, row: Row, ns: float, others: Sequence[str]) -> Cause:
    a_ns, b_ns = row.a_ns_per_token, row.b_ns_per_token
    if not row.significant:
        said = "takes as long as before on average, but its slowest steps changed"
    elif a_ns is None or b_ns is None:
        said = "runs now and did not before" if a_ns is None else "runs no more"
    elif a_ns:
        said = f"takes {abs(b_ns / a_ns - 1) * 100:.0f} % {'longer' if b_ns > a_ns else 'less'}"
    else:
        said = "takes longer"
    evidence = [f"{_time(a_ns)} → {_time(b_ns)} per {change.per} of {change.phase}"]
    if row.tail_significant and row.a_tail_ns is not None and row.b_tail_ns is not None:
        evidence.append(f"95th percentile of steps: {in_ms(row.a_tail_ns)} → {in_ms(row.b_tail_ns)} per {change.per}")
    if row.equal is not None and row.equal.ci95 is not None:
        one = row.equal
        evidence.append(f"at contexts that both sides have: {in_ms(one.a_ns_per_token)} → {in_ms(one.b_ns_per_token)}")
    elif row.contexts_apart:
        evidence.append("it grows with the context, and the sides have too little or nothing of that in common")
    if row.layers:
        evidence.append(f"in layers {', '.join(map(str, row.layers[:20]))} only")
    if row.matched:
        evidence.append(row.matched)
    return Cause(
        claim=f"{row.name} {said}; nothing recorded explains it",
        kind=row.kind if row.kind != "unattributed" else "operator",
        share=change.share(ns) if row.significant else None,
        confidence="low",
        evidence=(*evidence, *others),
        next=_what_to_record(row),
        phase=change.phase,
    )


def _time(ns: float | None) -> str:
    return "not run" if ns is None else in_ms(ns)


def _what_to_record(row: Row) -> str:
    if row.kind == "operator" and not row.layers and not any(part.part == "runnable" for part in row.parts):
        return "Record both sides with --levels token,graph,op,thread,sched: it tells work from waits."
    return COUNTERS
