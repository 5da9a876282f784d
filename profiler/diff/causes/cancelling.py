"""Two changes cancel: some rows gained about what others lost, and the whole hides both ("masked").

Fires when significant rows of a phase changed both ways, each way by more than twice the phase's own change (or the
phase did not change significantly), and by 2 % of it or more. What one side only has is counted against what replaced
it in the same block first, and what is no operator (between graphs, around operators) together. A kernel that became
faster under a loop that waits for the host shows so: the gain stands beside a longer wait (of a device's own timeline
masked.py says more).

What to do: judge the two apart; the gain is real, and comes to light when the other is mended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from flowprof.profiler.diff.causes import masked
from flowprof.profiler.diff.causes.change import HOST, Change, changes
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, Row
from flowprof.profiler.findings import in_ms

MIN_SHARE = 0.02


def causes(compared: Compared) -> Sequence[Claim]:
    said = {claim.cause.phase for claim in masked.causes(compared)}
    found = [_cancelled(change) for change in changes(compared) if change.phase not in said]
    return [claim for claim in found if claim is not None]


def _cancelled(change: Change) -> Claim | None:
    each = _changed(change)
    lost = sum(ns for ns, _, _ in each if ns > 0)
    gained = -sum(ns for ns, _, _ in each if ns < 0)
    less, net = min(lost, gained), abs(change.shift.delta_ns_per_token)
    if less < MIN_SHARE * max(change.shift.a_ns_per_token, 1.0) or (change.shift.significant and less < 2 * net):
        return None
    slower, faster = max(each), min(each)
    host = sum(ns for ns, _, host in each if host) > 0.5 * lost
    hidden = (
        f"A gain in {faster[1]} is masked: the host waits or works longer"
        if host
        else f"Two changes cancel in {change.phase}: {slower[1]} became slower, {faster[1]} faster"
    )
    return Claim(
        Cause(
            claim=hidden,
            kind="masked",
            share=None,
            confidence="high",
            evidence=(
                f"slower rows: +{in_ms(lost)} per {change.per}, most of it {slower[1]} (+{in_ms(slower[0])})",
                f"faster rows: -{in_ms(gained)} per {change.per}, most of it {faster[1]} (-{in_ms(-faster[0])})",
                f"the whole {change.phase}: {change.shift.delta_ns_per_token / 1e6:+.3g} ms per {change.per}",
            ),
            next="Judge the two apart: the gain comes to light when the other change is mended.",
            phase=change.phase,
        )
    )


def _changed(change: Change) -> list[tuple[float, str, bool]]:
    """ns, name, whether it is the host's: significant rows; what one side only has, and the host's, added up."""
    found: list[tuple[float, str, bool]] = []
    together: dict[str, list[Row]] = defaultdict(list)
    for row in change.rows.values():
        if not row.significant:
            continue
        if row.kind in HOST:
            together["host"].append(row)
        elif row.a_ns_per_token is None or row.b_ns_per_token is None:
            together[f"operators of {row.block}"].append(row)
        else:
            found.append((row.delta_ns_per_token, row.name, False))
    for name, rows in together.items():
        ns = sum(row.delta_ns_per_token for row in rows)
        found.append((ns, rows[0].name if len(rows) == 1 else name, name == "host"))
    return found or [(0.0, "", False)]
