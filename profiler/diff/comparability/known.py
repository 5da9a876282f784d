"""What a fact says of two sides: the same, different, or unknown. Of a side, a value for each of its recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from flowprof.profiler.diff.result import Difference
from flowprof.profiler.store import Recording

FORBIDS = 1.0  # the weight of what makes a comparison senseless
MOST_VALUES = 3  # of a side, in words
MOST_SIGNS = 200  # of each

T = TypeVar("T")
Sides = tuple[Sequence[Recording], Sequence[Recording]]
Told = tuple[str, str]  # of either side, in words; "" unknown


def each(sides: Sides, read: Callable[[Recording], T]) -> tuple[list[T], list[T]]:
    """What every recording tells."""
    return [read(one) for one in sides[0]], [read(one) for one in sides[1]]


def words(what: str, values: tuple[Sequence[str], Sequence[str]], weight: float, why: str) -> Difference:
    """Texts that are the same or not; "" where a recording does not tell."""
    a, b = (sorted({text for text in side if text}) for side in values)
    told = _joined(a), _joined(b)
    if not a or not b:
        return unknown(what, told)
    return difference(what, a != b, told, weight, why)


def numbers(
    what: str,
    values: tuple[Sequence[float | None], Sequence[float | None]],
    unit: str,
    tolerance: float,
    weight: float,
    why: str,
) -> Difference:
    """Medians of the sides, which differ when one is more than `tolerance` (0.1: a tenth) above the other."""
    a, b = _median(values[0]), _median(values[1])
    told = _with_unit(a, unit), _with_unit(b, unit)
    if a is None or b is None:
        return unknown(what, told)
    return difference(what, max(a, b) - min(a, b) > tolerance * min(a, b), told, weight, why)


def difference(what: str, apart: bool, told: Told, weight: float, why: str) -> Difference:
    """Without a reason where there is nothing to explain."""
    return Difference(what, "different" if apart else "same", *told, weight, why if apart else "")


def unknown(what: str, told: Told, why: str = "") -> Difference:
    """Weighs nothing; which side does not tell is said."""
    who = "neither side tells" if not any(told) else f"only the side {'before' if told[0] else 'after'} tells"
    return Difference(what, "unknown", *told, 0.0, why or who)


def figure(value: float) -> str:
    """Three figures, no exponent."""
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 999.5 else f"{value:.3g}"


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{figure(value)} {unit}".strip()


def _joined(texts: Sequence[str]) -> str:
    more = f" or {len(texts) - MOST_VALUES} others" if len(texts) > MOST_VALUES else ""
    return " or ".join(text[:MOST_SIGNS] for text in texts[:MOST_VALUES]) + more


def _median(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return float(np.median(told)) if told else None
