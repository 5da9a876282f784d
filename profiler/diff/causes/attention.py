"""Attention is computed in another way: flash attention on one side, KQ, softmax and KQV on the other.

Fires when FLASH_ATTN_EXT runs in a phase that changed on exactly one side, and a product of its own or a softmax on the
other. What one side only has of the attention block, and what was matched across the two ways, is explained.

What to do: --flash-attn on (or off); a cache of quantised V needs it on.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes.change import changes, total
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, Row
from flowprof.profiler.diff.steps.steps import Steps
from flowprof.profiler.findings import in_ms

FLASH, SOFTMAX = "FLASH_ATTN_EXT", "SOFT_MAX"


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        a, b = _operators(compared.a_steps, change.phase), _operators(compared.b_steps, change.phase)
        if (FLASH in a) == (FLASH in b) or SOFTMAX not in (b if FLASH in a else a):
            continue
        off = FLASH in a
        explains = change.of(_only_one)
        rows = [change.rows[place] for place in sorted({place for place, _ in explains})]
        a_ns, b_ns = (sum(row.a_ns_per_token or 0 for row in rows), sum(row.b_ns_per_token or 0 for row in rows))
        before, after = _ways(rows)
        other = ", ".join(sorted((after - before if off else before - after) - {FLASH}) or [SOFTMAX])
        ways = (FLASH, other) if off else (other, FLASH)
        found.append(
            Claim(
                Cause(
                    claim=f"Flash attention is {'off' if off else 'on'}: {ways[1]} in place of {ways[0]}",
                    kind="attention",
                    share=None,
                    confidence="high",
                    evidence=(
                        f"{ways[0]}: {in_ms(a_ns)} per token, only before; {ways[1]}: {in_ms(b_ns)}, only after "
                        f"({in_ms(total(explains))} more)",
                    ),
                    next=f"Start it with --flash-attn {'on' if off else 'off'}, and see why it is not now "
                    "(a build or a device without it, or another default).",
                    phase=change.phase,
                ),
                explains,
            )
        )
    return found


def _operators(steps: Sequence[Sequence[Steps]], phase: str) -> set[str]:
    """Of the attention block, in any recording of the side."""
    return {
        group.op for recording in steps for one in recording if one.phase == phase
        for group in one.groups if group.block == "attention"
    }  # fmt: skip


def _ways(rows: Sequence[Row]) -> tuple[set[str], set[str]]:
    """Operators before and after; those of matched rows from how they were (split: SET_ROWS + x → SET_ROWS + y + z)."""
    before: set[str] = set()
    after: set[str] = set()
    for row in rows:
        a, arrow, b = row.matched.partition(": ")[2].partition(" → ")
        if arrow:
            before |= set(a.split(" + "))
            after |= set(b.split(" + "))
        else:
            (after if row.a_ns_per_token is None else before).add(row.op)
    return before, after


def _only_one(row: Row) -> bool:
    one_side = row.a_ns_per_token is None or row.b_ns_per_token is None
    return row.block == "attention" and (one_side or FLASH in (row.op, row.matched) or FLASH in row.matched)
