"""Causes in the order in which to look at them: one list over operators, waits, resources, variables and machine.

The rules are asked in the order of `CAUSES`, each gets what is left of the cells that it explains, and what explains
less than MIN_SHARE of its phase's change is left out. A row that changed significantly and of which half is left over
is a claim by itself: the place is known, the reason is not. So is a row whose tail changed, where its phase did not. A
share is of the change of the whole phase; where that is not significant, or the cause works against it, there is none.

Where no phase changed as a whole, what hides that comes first. Then come causes of phases that changed as a whole, by
the time that they cost the slow side in all (ns per token times its tokens, less where the confidence is less); causes
of the other direction come last. Where nothing changed significantly there are no causes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flowprof.profiler.diff.causes import CAUSES
from flowprof.profiler.diff.causes.change import Change, changes, worth_telling
from flowprof.profiler.diff.causes.claim import Cell, Claim
from flowprof.profiler.diff.causes.differing import besides
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, Row
from flowprof.profiler.findings import in_ms

MIN_SHARE = 0.03  # of the phase's change
LEFT_OVER = 0.5  # of a row
WEIGHT = {"high": 1.0, "medium": 0.8, "low": 0.5}


@dataclass(frozen=True, slots=True)
class _Placed:
    """A cause with what it explains in all, ns of the slow side."""

    cause: Cause
    total: float
    certain: bool  # its phase, or what it is about, changed as a whole


def ranked(compared: Compared) -> tuple[Cause, ...]:
    """Every cause with its share. Empty when nothing changed."""
    changed = {change.phase: change for change in changes(compared)}
    left: dict[Cell, float] = {cell: ns for change in changed.values() for cell, ns in change.cells.items()}
    placed: list[_Placed] = []
    for rule in CAUSES:
        for claim in rule(compared):
            one = _place(claim, left, changed, compared)
            if one is not None:
                placed.append(one)
    others = besides(compared.pair)
    for change in changed.values():
        placed += _unexplained(change, left, others, any(one.cause.phase == change.phase for one in placed))
    whole = [change for change in changed.values() if change.shift.significant]
    direction = -1.0 if whole and all(change.sign < 0 for change in whole) else 1.0

    def order(one: _Placed) -> tuple[bool, bool, bool, float]:
        against, weight = one.total * direction < 0, WEIGHT[one.cause.confidence]
        hides = one.cause.kind == "masked" and not whole
        return not hides, against, not one.certain, -abs(one.total) * weight

    return tuple(one.cause for one in sorted(placed, key=order))


def _place(claim: Claim, left: dict[Cell, float], changed: dict[str, Change], compared: Compared) -> _Placed | None:
    """The claim with what is left for it, which is then no longer left; None when that is too little."""
    change = changed.get(claim.cause.phase)
    taken = {cell: got for cell, ns in claim.explains.items() if (got := _at_most(left.get(cell, 0.0), ns))}
    ns = sum(taken.values()) + claim.ns
    masks = claim.cause.kind == "masked"
    if change is not None and not masks:
        shift = change.shift
        if not ns or (shift.significant and abs(ns) < MIN_SHARE * abs(shift.delta_ns_per_token)):
            return None
    for cell, got in taken.items():
        left[cell] -= got
    cause = claim.cause
    if cause.share is None and change is not None and not masks and claim.measured:
        cause = replace(cause, share=_share(change, ns))
        if cause.share is None and change.shift.significant:
            cause = replace(
                cause, evidence=(*cause.evidence, f"against the change: {ns / 1e6:+.3g} ms per {change.per}")
            )
    tokens = _tokens(compared, cause.phase)
    certain = change is None or change.shift.significant
    return _Placed(cause, ns * tokens, certain)


def _at_most(left: float, ns: float) -> float:
    """Of what is left of a cell, as much as is claimed; nothing where they differ in direction."""
    return min(left, ns, key=abs) if left * ns > 0 else 0.0


def _share(change: Change, ns: float) -> float | None:
    shift = change.shift
    if not shift.significant or ns * shift.delta_ns_per_token <= 0:
        return None
    return ns / shift.delta_ns_per_token


def _tokens(compared: Compared, phase: str) -> float:
    """Of the slow side; of what is no phase of the diff, those of its first one."""
    by_phase = {shift.phase: shift.b_tokens for shift in compared.phases}
    return float(by_phase.get(phase) or next(iter(by_phase.values()), 1))


# ------------------------------------------------------------------ rows that nothing explains


def _unexplained(change: Change, left: dict[Cell, float], others: Sequence[str], explained: bool) -> list[_Placed]:
    """Rows of which half is left over; where the phase as a whole did not change, also those with a longer tail."""
    shift = change.shift
    least = MIN_SHARE * abs(shift.delta_ns_per_token) if shift.significant else 0.0
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
    told = worth_telling(change, changed, not explained)
    told += worth_telling(change, tails, not explained and not told)
    return [_row(change, change.rows[place], open_ns[place], others) for place in told]


def _row(change: Change, row: Row, ns: float, others: Sequence[str]) -> _Placed:
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
    if row.layers:
        evidence.append(f"in layers {', '.join(map(str, row.layers[:20]))} only")
    if row.matched:
        evidence.append(row.matched)
    evidence += others
    kind = row.kind if row.kind != "unattributed" else "operator"
    cause = Cause(
        claim=f"{row.name} {said}; nothing recorded explains it",
        kind=kind,
        share=_share(change, ns) if row.significant else None,
        confidence="low",
        evidence=tuple(evidence),
        next=_what_to_record(row),
        phase=change.phase,
    )
    return _Placed(cause, ns * change.shift.b_tokens, change.shift.significant)


def _time(ns: float | None) -> str:
    return "not run" if ns is None else in_ms(ns)


def _what_to_record(row: Row) -> str:
    lacks: Sequence[str] = [] if any(part.part == "runnable" for part in row.parts) else ["sched"]
    if lacks and row.kind == "operator":
        return "Record both sides with --levels token,graph,op,thread,sched: it tells work from waits."
    return "Record both sides with --counters all; flowprof report on each tells what bounds it."
