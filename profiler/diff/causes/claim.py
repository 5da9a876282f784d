"""What a rule says before its share is known: a cause, and which cells of the change it would explain.

A cell is one part of one row (`work` of MUL_MAT ffn_up in decode). Several rules may explain the same cell; ranking.py
gives each nanosecond to the first of them in the order of `CAUSES`, so that shares never count it twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flowprof.profiler.diff.result import Cause, Part

Cell = tuple[int, Part]  # a row's place in Compared.rows, and a part of it


@dataclass(frozen=True, slots=True)
class Claim:
    """`cause.share` is set when the claims are ranked, unless the rule set it: its change is not that of any row.

    explains: ns per token of `cause.phase`, signed as the rows' deltas. ns: the same of what no row holds. measured:
    false where the cause is known and its part is not: it gets no share, and what it would explain no other claim. by:
    the program that is to blame, "" none; what it does beside that, and nobody measured, is evidence of the claim.
    """

    cause: Cause
    explains: Mapping[Cell, float] = field(default_factory=dict)
    ns: float = 0.0
    measured: bool = True
    by: str = ""
