"""One line of the benchmark table, and the arithmetic that the benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Row:
    """A measure. limit: what the issue asks for, None where it asks for none. at_least: the limit is a lower one."""

    what: str
    value: float | None  # None: could not be measured, `note` says why
    unit: str
    limit: float | None = None
    at_least: bool = False
    interval: tuple[float, float] | None = None  # 95 %
    note: str = ""

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or `open` when the limit lies inside the interval or nothing was measured."""
        if self.limit is None:
            return ""
        if self.value is None:
            return "open"
        low, high = self.interval or (self.value, self.value)
        if self.at_least:
            low, high, limit = -high, -low, -self.limit
        else:
            limit = self.limit
        return "met" if high <= limit else "missed" if low > limit else "open"


Statistic = Callable[[np.ndarray], float]


def trimmed_mean(values: np.ndarray) -> float:
    """The mean without the lowest and the highest tenth (one each of ten)."""
    ordered = np.sort(values)
    cut = round(len(ordered) / 10)
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrap(
    values: Sequence[float], statistic: Statistic = trimmed_mean, rounds: int = 4000
) -> tuple[float, float, float]:
    """The statistic of `values` and its 95 % interval, by resampling (percentiles; the seed is fixed)."""
    sample = np.asarray(values, float)
    random = np.random.default_rng(1)
    drawn = [statistic(random.choice(sample, len(sample))) for _ in range(rounds)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return statistic(sample), float(low), float(high)
