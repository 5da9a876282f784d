"""Operators that run on one side only: a copy, a conversion, a layer that was not there.

Fires for rows that one side only has, with a significant time, and that nothing matched to a row of the other side.
Their whole time is explained. A conversion or a copy (CONT, CPY, DUP, aten::copy_, aten::contiguous, aten::to …) is
called one.

What to do: look at what was changed in the model's graph or program around the operators named beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from flowprof.profiler.diff.causes.change import HOST, Change, changes
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.causes.differing import besides
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, Row
from flowprof.profiler.findings import in_ms

COPIES = ("CONT", "CPY", "DUP", "copy_", "contiguous", "clone", "_to_copy", "aten::to", "Memcpy")
MAX_CLAIMS = 5


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    others = besides(compared.pair)
    for change in changes(compared):
        groups: dict[tuple[bool, str], list[Row]] = defaultdict(list)
        for row in change.rows.values():
            if (
                row.significant
                and row.kind not in HOST
                and (row.a_ns_per_token is None) != (row.b_ns_per_token is None)
            ):
                groups[row.a_ns_per_token is None, row.op or row.name].append(row)
        ranked = sorted(groups.items(), key=lambda item: -abs(sum(row.delta_ns_per_token for row in item[1])))
        found += [_claim(change, op, rows, new, others) for (new, op), rows in ranked[:MAX_CLAIMS]]
    return found


def _claim(change: Change, op: str, rows: Sequence[Row], new: bool, others: Sequence[str]) -> Claim:
    ns = sum(row.delta_ns_per_token for row in rows)
    calls = sum((row.calls_per_token[1 if new else 0] or 0.0) for row in rows)
    kind = "copy " * any(word in op for word in COPIES)
    where = rows[0].name if len(rows) == 1 else f"{op} ({len(rows)} rows)"
    return Claim(
        Cause(
            claim=f"{where} runs {'now and did not before' if new else 'no more'}"
            + (f": a {kind.strip()}" if kind else ""),
            kind="added" if new else "removed",
            share=None,
            confidence="high",
            evidence=(
                f"{in_ms(abs(ns))} per {change.per} of {change.phase}" + (f" in {calls:.3g} calls" if calls else ""),
                *(f"{row.name}: {in_ms(abs(row.delta_ns_per_token))}" for row in rows[:3] if len(rows) > 1),
                *others,
            ),
            next="See what changed in the graph or the program around it; report --html shows it in the timeline.",
            phase=change.phase,
        ),
        change.of(lambda row: row in rows),
    )
