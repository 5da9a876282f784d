"""A finding: one claim about the recording, with its price, its evidence and what to do about it.

`cost_ns_per_token` is what a token of `phase` would at most gain; None when the claim has no price of its own.
Confidence is one of three words: `high` (measured directly, nothing estimated), `medium` (estimated from part of the
recording, or an upper bound), `low` (a hint; the evidence says what would confirm it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Confidence = Literal["high", "medium", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One claim with its evidence. `id` is the analyzer that made it and a noun, e.g. `threads.imbalance`."""

    id: str
    claim: str
    phase: str = ""  # prefill, decode, … or "" for the whole recording
    cost_ns_per_token: float | None = None
    confidence: Confidence
    evidence: tuple[str, ...]
    advice: str
    severity: Literal["problem", "notice"] = "notice"


def in_ms(ns: float) -> str:
    """A time as findings state it: 12.3 ms, from a second on 1.23 s, from a hundred on 5,270 s."""
    if ns >= 1e11:
        return f"{ns / 1e9:,.0f} s"
    return f"{ns / 1e6:.3g} ms" if ns < 1e9 else f"{ns / 1e9:.3g} s"


def part_of(ns: int, whole_ns: int) -> str:
    """A time with its share of another: 12.3 ms (4.5 %)."""
    return f"{in_ms(ns)} ({ns / whole_ns * 100:.1f} %)" if whole_ns else in_ms(ns)
