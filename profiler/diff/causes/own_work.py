"""The same work takes longer: as many FLOPs and bytes as before, reached at a lower rate.

Fires for rows that changed significantly in their own work, and whose FLOPs and bytes per token are known and within
5 % of each other on both sides. Where the rows of most of the phase's time changed by about as much (the middle half of
them within a fifth of their median) it is one claim about the phase; else one about each row. Rows that changed by less
than single rows of two runs differ are one claim together, where the phase changed, they are most of that and of its
time, and most of them went along. Evidence: the rates
reached, and where operators' counters were recorded (--counters all) which of instructions and cycles per call changed:
more instructions are other code; more cycles for as many instructions are stalls (memory, caches); as many of both in
more time is a lower clock, or a processor that is shared.

What to do: as the counters say. Without them: record both sides with --counters all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from flowprof.profiler.diff.causes.change import Change, changes, worth_telling
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.causes.counters import compared_counters
from flowprof.profiler.diff.causes.differing import besides
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, Row
from flowprof.profiler.findings import in_ms

SAME = 0.05
WIDE, ALIKE = 0.5, 0.2  # of the phase's time; spread of the middle half of the rows' changes, of their median
MIN_ROWS = 3
HALF = 0.5  # of the phase's change, of the mean change


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    others = besides(compared.pair)
    for change in changes(compared):
        same = [place for place, row in change.rows.items() if same_work(row)]
        work = {place: change.cells.get((place, "work"), 0.0) for place in same}
        places = [place for place in same if change.rows[place].significant]
        places = [place for place in places if abs(work[place]) >= 0.5 * abs(change.rows[place].delta_ns_per_token)]
        if _all_alike([change.rows[place] for place in places], change):
            found.append(_whole(compared, change, places, ("All", "all by about as much"), others))
            continue
        told = worth_telling(change, {place: work[place] for place in places})
        found += [_one(compared, change, place, others) for place in told]
        rest = [place for place in same if place not in told]
        if _together(change, {place: work[place] for place in rest}):
            said = "The rest" if told else "All", "each by less than rows of two runs may differ"
            found.append(_whole(compared, change, rest, said, others))
    return found


def same_work(row: Row) -> bool:
    """Whether FLOPs and bytes per token are known, and the same on both sides; one kind of the two must not be 0."""
    known = [pair for pair in (row.flops, row.bytes) if pair[0] is not None and pair[1] is not None]
    if not known or row.a_ns_per_token is None or row.b_ns_per_token is None:
        return False
    return any(a or b for a, b in known) and all(
        abs((b or 0) - (a or 0)) <= SAME * max(abs(a or 0), abs(b or 0)) for a, b in known
    )


def _all_alike(rows: Sequence[Row], change: Change) -> bool:
    if len(rows) < MIN_ROWS or sum(row.a_ns_per_token or 0 for row in rows) < WIDE * change.shift.a_ns_per_token:
        return False
    relative = np.array([row.delta_ns_per_token / row.a_ns_per_token for row in rows if row.a_ns_per_token])
    low, middle, high = np.quantile(relative, [0.25, 0.5, 0.75])
    return bool(high - low <= ALIKE * (1 + middle) and np.sign(low) == np.sign(high))


def _together(change: Change, work: Mapping[int, float]) -> bool:
    """Rows of which each changed by less than runs differ, and the sum is most of what the phase did."""
    ns = sum(work.values()) * change.sign
    a_ns = {place: change.rows[place].a_ns_per_token or 0.0 for place in work}
    whole = sum(a_ns.values())
    along = sum(a_ns[place] for place in work if work[place] * change.sign * whole >= HALF * ns * a_ns[place])
    return (
        change.shift.significant
        and len(work) >= MIN_ROWS
        and ns >= HALF * abs(change.shift.delta_ns_per_token)
        and min(along, whole) >= WIDE * change.shift.a_ns_per_token
    )


def rates(row: Row) -> str:
    """What the row reaches of bytes, or of FLOPs, on both sides; "" not known, as of some of its layers only."""
    a_ns, b_ns = row.a_ns_per_token, row.b_ns_per_token
    if not a_ns or not b_ns or row.layers:
        return ""
    if row.bytes[0] and row.bytes[1]:
        return f"{row.bytes[0] / a_ns:.3g} → {row.bytes[1] / b_ns:.3g} GB/s"
    if row.flops[0] and row.flops[1]:
        return f"{row.flops[0] / a_ns:.3g} → {row.flops[1] / b_ns:.3g} GFLOP/s"
    return ""


def _one(compared: Compared, change: Change, place: int, others: Sequence[str]) -> Claim:
    row = change.rows[place]
    a_ns, b_ns = row.a_ns_per_token or 0.0, row.b_ns_per_token or 0.0
    percent = abs(b_ns / a_ns - 1) * 100 if a_ns else 0.0
    rate = rates(row)
    counted, advice = compared_counters(compared.pair, change.phase, row)
    return Claim(
        Cause(
            claim=f"{row.name} takes {percent:.0f} % {'longer' if b_ns > a_ns else 'less'} for the same work"
            + (f": {rate}" if rate else ""),
            kind="own work",
            share=None,
            confidence="medium" if not counted else "high",
            evidence=(
                f"{in_ms(a_ns)} → {in_ms(b_ns)} per {change.per} of {change.phase}; FLOPs and bytes are the same",
                *counted,
                *others,
            ),
            next=advice,
            phase=change.phase,
        ),
        change.of(lambda one: one is row, parts=("work",)),
    )


def _whole(
    compared: Compared, change: Change, places: Sequence[int], said: tuple[str, str], others: Sequence[str]
) -> Claim:
    rows = [change.rows[place] for place in places]
    a_ns, b_ns = (sum(row.a_ns_per_token or 0 for row in rows), sum(row.b_ns_per_token or 0 for row in rows))
    slower = b_ns > a_ns
    what, how = said
    largest = max(rows, key=lambda row: abs(row.delta_ns_per_token))
    counted, advice = compared_counters(compared.pair, change.phase, largest)
    return Claim(
        Cause(
            claim=f"{what} of {change.phase} takes {abs(b_ns / a_ns - 1) * 100:.0f} % {'longer' if slower else 'less'} "
            f"for the same work: the processor or the memory is {'slower' if slower else 'faster'}",
            kind="own work",
            share=None,
            confidence="medium",
            evidence=(
                f"{len(rows)} rows, {in_ms(a_ns)} → {in_ms(b_ns)} per {change.per}, {how}; "
                f"{largest.name}: {rates(largest) or 'rate not known'}",
                *counted,
                *others,
            ),
            next=advice,
            phase=change.phase,
        ),
        change.of(lambda row: row in rows or row.kind == "operator", parts=("work",)),
    )  # fmt: skip
