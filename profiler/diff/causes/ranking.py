"""Causes in the order in which to look at them: one list over operators, waits, resources, variables and machine.

The rules are asked in the order of `CAUSES`, each gets what is left of the cells that it explains, and what explains
less than MIN_SHARE of its phase's change is left out. What is left over of rows that changed, and of phases, is a claim
by itself (unexplained.py). A share is of the change of the whole phase; where that is not significant, or the cause
works against it, there is none. What a program that is blamed already may do beside that, and nobody measured, is no
cause of its own where it is less: it is the first one's evidence.

Where no phase changed as a whole, what hides that comes first. Then come causes of phases that changed as a whole, by
the time that they cost the slow side in all (ns per token times its tokens, less where the confidence is less); what
nothing explains of a phase comes behind causes that no row shows; causes of the other direction come last. Where
nothing changed significantly there are no causes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flowprof.profiler.diff.causes import CAUSES, unexplained
from flowprof.profiler.diff.causes.change import Change, changes
from flowprof.profiler.diff.causes.claim import Cell, Claim
from flowprof.profiler.diff.causes.differing import besides
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.steps.steps import REQUESTS

MIN_SHARE = 0.03  # of the phase's change; where it has none, of what its rows changed by
WEIGHT = {"high": 1.0, "medium": 0.8, "low": 0.5}


@dataclass(frozen=True, slots=True)
class _Placed:
    """A cause with what it explains in all, ns of the slow side."""

    cause: Cause
    ns: float  # of its phase
    total: float
    certain: bool  # its phase, or what it is about, changed as a whole
    rest: bool = False  # what of the phase nothing explains
    by: str = ""  # as in Claim
    measured: bool = True


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
    for change in sorted(changed.values(), key=lambda one: one.phase in REQUESTS):
        tokens, certain = change.shift.b_tokens, change.shift.significant
        told = any(one.cause.phase == change.phase for one in placed)
        rows = unexplained.rows(change, left, MIN_SHARE, others, told)
        placed += [_Placed(cause, ns, ns * tokens, certain) for cause, ns in rows]
        if change.phase in REQUESTS and placed:
            continue  # clients wait longer for what is told already
        explained_ns = sum(one.ns for one in placed if one.cause.phase == change.phase)
        rest = unexplained.rest(change, left, explained_ns, others)
        placed += [_Placed(cause, ns, ns * tokens, certain, rest=True) for cause, ns in rest]
    whole = [change for change in changed.values() if change.shift.significant]
    direction = -1.0 if whole and all(change.sign < 0 for change in whole) else 1.0
    loose = any(not one.cause.phase for one in placed)  # it may be why, though no row shows it

    def order(one: _Placed) -> tuple[bool, bool, bool, bool, float]:
        against, weight = one.total * direction < 0, WEIGHT[one.cause.confidence]
        hides = one.cause.kind == "masked" and not whole
        return not hides, against, not one.certain, one.rest and loose, -abs(one.total) * weight

    return tuple(one.cause for one in _once(sorted(placed, key=order)))


def _once(placed: Sequence[_Placed]) -> list[_Placed]:
    """Without what a program may do beside that, and more of that, for which it is blamed: there it is evidence."""
    first = {one.by: one for one in reversed(placed) if one.by and one.measured}
    beside = [
        one for one in placed
        if not one.measured and one.by in first and abs(one.total) <= abs(first[one.by].total)
    ]  # fmt: skip
    found = []
    for one in placed:
        more = [other for other in beside if one is first.get(other.by)]
        evidence = dict.fromkeys((*one.cause.evidence, *(text for other in more for text in other.cause.evidence)))
        if one not in beside:
            found.append(replace(one, cause=replace(one.cause, evidence=tuple(evidence))) if more else one)
    return found


def _place(claim: Claim, left: dict[Cell, float], changed: dict[str, Change], compared: Compared) -> _Placed | None:
    """The claim with what is left for it, which is then no longer left; None when that is too little."""
    change = changed.get(claim.cause.phase)
    taken = {cell: got for cell, ns in claim.explains.items() if (got := _at_most(left.get(cell, 0.0), ns))}
    ns = sum(taken.values()) + claim.ns
    masks = claim.cause.kind == "masked"
    if change is not None and not masks:
        whole = change.shift.delta_ns_per_token if change.shift.significant else sum(map(abs, change.cells.values()))
        if not ns or abs(ns) < MIN_SHARE * abs(whole):
            return None
    for cell, got in taken.items():
        left[cell] -= got
    cause = claim.cause
    if cause.share is None and change is not None and not masks and claim.measured:
        cause = replace(cause, share=change.share(ns))
        if cause.share is None and change.shift.significant:
            cause = replace(
                cause, evidence=(*cause.evidence, f"against the change: {ns / 1e6:+.3g} ms per {change.per}")
            )
    tokens = _tokens(compared, cause.phase)
    certain = change is None or change.shift.significant
    return _Placed(cause, ns, ns * tokens, certain, by=claim.by, measured=claim.measured)


def _at_most(left: float, ns: float) -> float:
    """Of what is left of a cell, as much as is claimed; nothing where they differ in direction."""
    return min(left, ns, key=abs) if left * ns > 0 else 0.0


def _tokens(compared: Compared, phase: str) -> float:
    """Of the slow side; of what is no phase of the diff, those of its first one."""
    by_phase = {shift.phase: shift.b_tokens for shift in compared.phases}
    return float(by_phase.get(phase) or next(iter(by_phase.values()), 1))
