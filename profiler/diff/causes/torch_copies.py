"""Tensors are copied more often: a hidden .contiguous(), a conversion, a move that was not there.

Fires in a torch program's step that changed, when operators that only copy (COPIES) run more often per step than
before, by HALF a call or more, with the same caller and shape; often on one side only. .contiguous() calls clone, which
calls copy_: what is called inside counts with what calls it, and the outermost is named. Their time is explained. The
copies of a device (its kernels within these operators) are explained in its own phase.

What to do: find the call in the program (.contiguous(), .to(), .clone(), reshape of what is not contiguous). A tensor
that is used often in another layout is better kept in it; a conversion belongs out of the loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes.change import Change, changes
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause, Row

COPIES = ("aten::contiguous", "aten::clone", "aten::copy_", "aten::to", "aten::_to_copy")  # callers first
CONVERTS = ("aten::to", "aten::_to_copy")
ALLOCATE = ("aten::empty", "aten::empty_like", "aten::empty_strided")  # what they call besides
HALF = 0.5
MAX_SHOWN = 4


def causes(compared: Compared) -> Sequence[Claim]:
    return [claim for change in changes(compared) if (claim := _claim(change)) is not None]


def _claim(change: Change) -> Claim | None:
    rows = [row for row in change.rows.values() if _copies(row) and more_calls(row) >= HALF]
    if not rows or sum(row.delta_ns_per_token for row in rows) <= 0:
        return None
    outermost = [row for row in rows if row.block not in COPIES] or rows
    outermost.sort(key=lambda row: (-more_calls(row), -row.delta_ns_per_token))
    first = outermost[0]
    name = first.op if first.kind == "torch" else first.block
    per_step = sum(more_calls(row) for row in outermost if row.op == first.op)
    by = f" in {first.block}" if first.kind == "torch" and first.block else ""
    return Claim(
        Cause(
            claim=f"Tensors are {'converted' if name in CONVERTS else 'copied'} more often: {per_step:.3g} calls of "
            f"{name}{by} a step that were not there before ({first.shape})",
            kind="copy",
            share=None,
            confidence="high",
            evidence=tuple(
                f"{row.name}{f' in {row.block}' if row.block else ''}: {_calls(row, 0)} → {_calls(row, 1)} calls a "
                f"step, {row.delta_ns_per_token / 1e6:+.3g} ms"
                for row in sorted(rows, key=lambda row: -row.delta_ns_per_token)[:MAX_SHOWN]
            ),
            next=f"Look for what calls {name} (.contiguous(), .clone(), .to(), reshape): keep the tensor in the layout "
            "and type in which it is used, or take the copy out of the loop.",
            phase=change.phase,
        ),
        change.of(lambda row: row in rows or (_allocates(row) and more_calls(row) >= HALF)),
    )  # fmt: skip


def _copies(row: Row) -> bool:
    return (row.kind == "torch" and row.op in COPIES) or (row.kind == "kernel" and row.block in COPIES)


def _allocates(row: Row) -> bool:
    return row.kind == "torch" and row.op in ALLOCATE and row.block in COPIES


def more_calls(row: Row) -> float:
    """Calls per step that b has more than a."""
    return (row.calls_per_token[1] or 0.0) - (row.calls_per_token[0] or 0.0)


def _calls(row: Row, side: int) -> str:
    return f"{row.calls_per_token[side] or 0.0:.3g}"
