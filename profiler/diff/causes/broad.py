"""Whether a phase changed all over, or in a few places. Part of the rules that blame what all operators share.

A build, a machine or a kernel could explain anything. It is blamed for what changed wherever it should have: when
operators with half of the phase's time or more, MIN_ROWS of them, changed by half of the phase's mean or more, in its
direction, in what is their own (no waits for a processor, a page or a lock). Of one operator that changed among others
that did not, the operator is the claim, and what differs besides is in its evidence. Where the operators of most of the
phase's time are not known, nothing says that the change is local.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from flowprof.profiler.diff.causes.change import HOST, Change
from flowprof.profiler.diff.causes.claim import Cell
from flowprof.profiler.findings import in_ms

WIDE = 0.5  # of the phase's time
HALF = 0.5  # of the mean change
MIN_ROWS = 3
MAX_SHOWN = 3


def broad(change: Change) -> bool:
    """Whether it is everybody's."""
    if not change.shift.significant:
        return False
    rows = {
        place: row.a_ns_per_token for place, row in change.rows.items() if row.kind not in HOST and row.a_ns_per_token
    }
    known = sum(rows.values())
    if known < WIDE * change.shift.a_ns_per_token:
        return True
    grew: dict[int, float] = defaultdict(float)
    for (place, _), ns in change.of(lambda row: row.kind not in HOST, parts=("work", "barrier")).items():
        grew[place] += ns * change.sign
    mean = sum(grew[place] for place in rows) / known
    along = [place for place, ns in rows.items() if mean > 0 and grew[place] >= HALF * mean * ns]
    return len(along) >= min(MIN_ROWS, len(rows)) and sum(rows[place] for place in along) >= WIDE * known


def largest(change: Change, cells: Mapping[Cell, float]) -> tuple[str, ...]:
    """The rows with most of some cells, as evidence; nothing where there are none."""
    rows: dict[int, float] = defaultdict(float)
    for (place, _), ns in cells.items():
        rows[place] += ns
    ranked = sorted(rows, key=lambda place: -abs(rows[place]))[:MAX_SHOWN]
    each = ", ".join(f"{change.rows[at].name} {'+' if rows[at] > 0 else '-'}{in_ms(abs(rows[at]))}" for at in ranked)
    return (f"most of it: {each} per {change.per}",) if each else ()
