"""The roofline chart of the HTML page: per phase the machine's roofs and a point per verdict, as plotly figures.

Roofs are labelled at their ends, beside the lines: bandwidths at the left, peaks at the right. js/page.js makes room
for the labels, whatever the page's width (`zone`), and puts the short ones in (`short`) where there is little. Names
of operators and shapes come from the recording: they are cleaned, and escaped for plotly's own markup.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from flowprof.profiler.machine.ceilings import Ceiling
from flowprof.profiler.sections.bound import BOUNDS
from flowprof.profiler.sections.verdicts import Verdict, VerdictTable
from flowprof.viewers.quantity import clean, count, duration, percent, three

HEIGHT, TOP, BOTTOM = 430, 14, 50  # pixels
LABEL = 16  # pixels between two labels
MAX_POINTS = 400
MAX_ROOFS = 12
LARGEST = 46  # diameter of the point with the most time, pixels
NAMES = {"dram_read": "DRAM", "llc_read": "last-level cache", "l2_read": "L2"}
SHORT = {"dram_read": "DRAM", "llc_read": "LLC", "l2_read": "L2"}
SYMBOLS = {"compute": "square", "memory-dram": "circle", "memory-cache": "diamond", "overhead": "triangle-up",
           "wait": "triangle-down", "inefficient": "star", "unknown": "x"}  # fmt: skip

Point = tuple[float, float]


def rooflines(table: VerdictTable | None) -> dict[str, dict[str, Any]]:
    """Figures by phase, for those with operators that have a place on the chart; none without roofs."""
    if table is None or not table.ceilings:
        return {}
    figures = {}
    for phase in dict.fromkeys(row.phase for row in table.rows):
        rows = placeable([row for row in table.rows if row.phase == phase])
        if rows:
            figures[clean(phase, 20)] = _figure(rows[:MAX_POINTS], table.ceilings[:MAX_ROOFS])
            if len(rows) > MAX_POINTS:
                figures[clean(phase, 20)]["note"] = f"The {MAX_POINTS} of {count(len(rows))} with most time."
    return figures


def placeable(rows: Sequence[Verdict]) -> list[Verdict]:
    """Those with operations and bytes: the rest computes nothing that is counted."""
    return [row for row in rows if row.gflops and row.intensity]


def label(ceiling: Ceiling) -> str:
    """DRAM 45.5 GB/s, or int8 450 GOP/s."""
    if ceiling.what == "gemm":
        return f"{clean(ceiling.dtype, 10)} {_rate(ceiling)}"
    return f"{NAMES.get(ceiling.what, clean(ceiling.what, 20))} {_rate(ceiling)}"


def _rate(ceiling: Ceiling) -> str:
    unit = "OP/s" if ceiling.what == "gemm" else "B/s"
    prefix, factor = ("T", 1e12) if ceiling.value >= 1e12 else ("G", 1e9)
    return f"{three(ceiling.value / factor)} {prefix}{unit}"


def _figure(rows: Sequence[Verdict], ceilings: Sequence[Ceiling]) -> dict[str, Any]:
    slopes = [item for item in ceilings if item.what != "gemm"]
    peaks = [item for item in ceilings if item.what == "gemm"]
    places = [(row.intensity or 0.0, row.gflops or 0.0) for row in rows]
    least, most = _range([place[0] for place in places], slopes, peaks)
    bottom, top = _heights(places, slopes, peaks, least)
    lines, ends = _roofs(slopes, peaks, least, most)
    per_decade = (HEIGHT - TOP - BOTTOM) / (math.log10(top) - math.log10(bottom))
    return {
        "data": [*lines, _points(rows)],
        "layout": {
            "height": HEIGHT,
            "margin": {"l": 56, "r": 12, "t": TOP, "b": BOTTOM},
            "hovermode": "closest",
            "showlegend": False,
            "xaxis": {"type": "log", "range": [math.log10(least), math.log10(most)], "dtick": 1,
                      "title": {"text": "operations per byte"}},
            "yaxis": {"type": "log", "range": [math.log10(bottom), math.log10(top)], "dtick": 1,
                      "title": {"text": "GOP/s", "standoff": 4}},
            "annotations": _labels(ends, per_decade),
        },
        "zone": {"left": 142 if slopes else 0, "right": 96 if peaks else 0, "narrow": 50, "below": 640},
    }  # fmt: skip


def _range(intensities: Sequence[float], slopes: Sequence[Ceiling], peaks: Sequence[Ceiling]) -> Point:
    """From half a decade left of the first point to right of the last, and of the ridge."""
    ridges = [peak.value / slope.value for peak in peaks for slope in slopes if slope.what == "dram_read"]
    low = min([*intensities, *ridges])
    high = max([*intensities, *ridges])
    return 10 ** (math.log10(low) - 0.5), 10 ** (math.log10(high) + 0.6)


def _heights(places: Sequence[Point], slopes: Sequence[Ceiling], peaks: Sequence[Ceiling], least: float) -> Point:
    low = min(achieved for _, achieved in places)
    high = max(achieved for _, achieved in places)
    starts = [slope.value * least / 1e9 for slope in slopes]
    tops = [peak.value / 1e9 for peak in peaks] or starts
    bottom = 10 ** (math.log10(min([low, *starts])) - 0.25)
    return bottom, 10 ** (math.log10(max([high, *tops])) + 0.3)


def _roofs(
    slopes: Sequence[Ceiling], peaks: Sequence[Ceiling], least: float, most: float
) -> tuple[list[dict[str, Any]], list[tuple[Ceiling, Point]]]:
    """Slopes end at the highest peak, peaks begin at the steepest slope. With each line its labelled end."""
    lines, ends = [], []
    highest = max((peak.value for peak in peaks), default=None)
    fastest = max((slope.value for slope in slopes), default=None)
    for slope in slopes:
        ridge = most if highest is None else min(most, max(least, highest / slope.value))
        points = [(least, slope.value * least / 1e9), (ridge, slope.value * ridge / 1e9)]
        lines.append(_line(slope, points))
        ends.append((slope, points[0]))
    for peak in peaks:
        ridge = least if fastest is None else max(least, min(most, peak.value / fastest))
        points = [(ridge, peak.value / 1e9), (most, peak.value / 1e9)]
        lines.append(_line(peak, points))
        ends.append((peak, points[1]))
    return lines, ends


def _line(ceiling: Ceiling, points: list[Point]) -> dict[str, Any]:
    dash = {"dram_read": "solid", "llc_read": "dash", "l2_read": "dot"}.get(ceiling.what, "solid")
    return {
        "type": "scatter", "mode": "lines", "showlegend": False,
        "x": [round(x, 6) for x, _ in points], "y": [round(y, 6) for _, y in points],
        "line": {"color": "--soft-ink", "width": 1.6, "dash": dash},
        "hovertemplate": f"{html.escape(label(ceiling))}, {_threads(ceiling)}<extra></extra>",
    }  # fmt: skip


def _threads(ceiling: Ceiling) -> str:
    if not ceiling.threads:
        return "any number of threads"
    return f"{ceiling.threads} {'thread' if ceiling.threads == 1 else 'threads'}"


def _labels(ends: Sequence[tuple[Ceiling, Point]], per_decade: float) -> list[dict[str, Any]]:
    """Beside the ends of the lines, moved apart where lines end close to each other."""
    many = len({ceiling.threads for ceiling, _ in ends}) > 1
    made = []
    for left in (True, False):
        side = sorted((end for end in ends if (end[0].what != "gemm") == left), key=lambda end: end[1][1])
        at: list[float] = []  # pixels from 1 GOP/s upwards
        for _, (_, y) in side:
            wanted = math.log10(y) * per_decade
            at.append(max(wanted, at[-1] + LABEL) if at else wanted)
        for (ceiling, (x, y)), place in zip(side, at, strict=True):
            short = SHORT.get(ceiling.what, clean(ceiling.dtype or ceiling.what, 10))
            made.append({
                "x": math.log10(x), "y": math.log10(y), "xref": "x", "yref": "y", "showarrow": False,
                "xanchor": "right" if left else "left", "yanchor": "middle", "xshift": -5 if left else 5,
                "yshift": round(place - math.log10(y) * per_decade, 1),
                "text": html.escape(label(ceiling)) + (f", {ceiling.threads} thr." if many else ""),
                "short": html.escape(short), "font": {"size": 12, "color": "--soft-ink"},
            })  # fmt: skip
    return made


def _points(rows: Sequence[Verdict]) -> dict[str, Any]:
    """The largest first, so that small ones lie on top."""
    most = max(row.share for row in rows) or 1.0
    rows = sorted(rows, key=lambda row: -row.share)
    bounds = [row.bound if row.bound in BOUNDS else "unknown" for row in rows]
    return {
        "type": "scatter", "mode": "markers", "showlegend": False,
        "x": [float(f"{row.intensity:.4g}") for row in rows], "y": [float(f"{row.gflops:.4g}") for row in rows],
        "marker": {"color": [f"--bound-{bound}" for bound in bounds], "symbol": [SYMBOLS[bound] for bound in bounds],
                   "opacity": 0.85, "line": {"color": "--ink", "width": 0.8},
                   "size": [round(max(6.0, LARGEST * math.sqrt(max(0.0, row.share) / most)), 1) for row in rows]},
        "text": [_hover(row) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _hover(row: Verdict) -> str:
    """Lines of plain text; markup of the recording's own is escaped."""
    reached = "" if row.ceiling_share is None else f"{percent(row.ceiling_share)} of {clean(row.ceiling, 30)}"
    lines = [
        f"{clean(row.op, 40)} {clean('/'.join(row.tensors[:2]), 60)}".strip(),
        f"{clean(row.block, 20)} · {clean(row.shape, 70)}",
        f"bound: {row.bound}, confidence {row.confidence}",
        f"{percent(row.share)} of {clean(row.phase, 20)}, {duration(row.ns_per_token)} per token",
        f"{three(row.gflops or 0)} GOP/s at {three(row.intensity or 0)} op/byte"
        + (f", {three(row.gbps)} GB/s" if row.gbps else ""),
        reached,
    ]
    return "<br>".join(html.escape(line) for line in lines if line)
