"""The values of a variable on both sides as a small picture: a's shares upwards, b's downwards, on one axis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from flowprof.profiler.diff.result import VariableShift
from flowprof.viewers.quantity import percent

WIDTH, HALF = 1000.0, 34.0  # of the drawing; HALF: the tallest bar
MAX_BARS = 200  # of one side
LEAST = 6.0  # a bar's width


def picture(one: VariableShift) -> dict[str, Any] | None:
    """SVG paths and words; None where no values were kept."""
    a, b = one.a_values[:MAX_BARS], one.b_values[:MAX_BARS]
    values = sorted({value for value, _ in (*a, *b)})
    if not values:
        return None
    gaps = [high - low for low, high in itertools.pairwise(values)]
    wide = min([*gaps, (values[-1] - values[0]) / 20]) if gaps else 1.0
    low, high = values[0] - wide / 2, values[-1] + wide / 2
    scale = WIDTH / (high - low)
    tallest = max(share for _, share in (*a, *b)) or 1.0
    begin, end = (min(max((edge - low) * scale, 0.0), WIDTH) for edge in one.a_range)
    return {
        "a": _bars(a, low, wide, scale, -HALF / tallest),
        "b": _bars(b, low, wide, scale, HALF / tallest),
        "range_x": round(begin, 1),
        "range_width": round(max(end - begin, 1.0), 1),
        "low": number(values[0]),
        "high": number(values[-1]),
        "tallest": percent(tallest),
    }


def _bars(values: Sequence[tuple[float, float]], low: float, wide: float, scale: float, height: float) -> str:
    width = max(wide * scale * 0.9, LEAST)
    path = []
    for value, share in values:
        if share > 0:
            left = min(max((value - low) * scale - width / 2, 0.0), WIDTH - width)
            path.append(f"M{left:.1f} {HALF:.0f}h{width:.1f}v{share * height:.1f}h{-width:.1f}Z")
    return "".join(path)


def number(value: float) -> str:
    """At most six figures."""
    return f"{value:.6g}"
