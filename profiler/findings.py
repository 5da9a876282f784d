"""A finding: one claim about the recording, with its price, its evidence and what to do about it.

`cost_ns_per_token` is what a token of `phase` would at most gain; None when the claim has no price of its own.
Confidence is one of three words: `high` (measured directly, nothing estimated), `medium` (estimated from part of the
recording, or an upper bound), `low` (a hint; the evidence says what would confirm it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Confidence = Literal["high", "medium", "low"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim with its evidence. `id` is the analyzer that made it and a noun, e.g. `threads.imbalance`."""

    id: str
    claim: str
    phase: str  # prefill, decode, … or "" for the whole recording
    cost_ns_per_token: float | None
    confidence: Confidence
    evidence: tuple[str, ...]
    advice: str
    severity: Literal["problem", "notice"] = "notice"
