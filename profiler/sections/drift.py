"""Token time over the length of the context."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth with the context by Theil and Sen: the median of the slopes between all pairs."""

    ns_per_1000: float  # per 1 000 tokens of context
    ci95: tuple[float, float]
    at_least_ns: float  # of the fitted line at the shortest context
    at_most_ns: float  # at the longest


@dataclass(frozen=True, slots=True)
class DriftPoint:
    """The decode steps at one length of the context."""

    context: int  # n_kv: cache rows that attention reads
    steps: int
    step_p50_ns: float
    step_p10_ns: float
    step_p90_ns: float
    measured: int  # of the steps, with operators
    attention_p50_ns: float | None  # of those: what reads the cache


@dataclass(frozen=True, slots=True)
class Drift:
    """Token time over the context. `step` is None when the recording cannot say; `reason` is why."""

    points: tuple[DriftPoint, ...]  # by context
    steps: int
    tokens_per_step: int  # sequences that decode together, in the steps looked at
    levels: str  # of the steps looked at
    step: Slope | None
    attention: Slope | None  # the operators that read the cache: KQ, softmax, KQV or flash attention
    attention_share: float | None  # of the growth
    reason: str
