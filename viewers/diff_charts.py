"""Where a phase's change comes from, as a plotly waterfall: from the time per token before to that after.

One step for each of the largest contributions and one for all others together, so that the steps add up to the change.
Colours are names of CSS variables (js/page.js resolves them); grey is what may be noise. Names stand above the
bars, so that they have the whole width on a narrow screen.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowprof.profiler.diff.result import Diff, PhaseShift, Row
from flowprof.viewers import diff_words as words
from flowprof.viewers.quantity import clean, duration

MAX_STEPS = 14
LEAST = 0.01  # of the largest contribution
ROW = 42  # pixels of a step: its name and its bar
LABEL_UP = 17  # pixels from the bar's middle
LONGEST, NAME, SHORT_NAME = 160, 62, 30  # characters: in the tip, above a bar, there on a narrow screen
FROM_ZERO = 0.3  # a change of at least this share of the whole is drawn on an axis that begins at zero


@dataclass(frozen=True, slots=True)
class Step:
    """One bar, from `begin` to `end` in ns per token. A sum begins at 0."""

    name: str
    begin_ns: float
    end_ns: float
    colour: str
    is_sum: bool = False
    mark: str = ""  # on which side only


def waterfalls(diff: Diff) -> dict[str, dict[str, Any]]:
    """A figure for each phase."""
    known = [one for one in diff.phases if math.isfinite(one.a_ns_per_token) and math.isfinite(one.b_ns_per_token)]
    return {clean(phase.phase, 20): _figure(steps(diff, phase)) for phase in known}


def steps(diff: Diff, phase: PhaseShift) -> list[Step]:
    """From a's whole over the contributions to b's whole: the largest ones, then all others together."""
    mine = [row for row in diff.rows if row.phase == phase.phase and math.isfinite(row.delta_ns_per_token)]
    rows = sorted((row for row in mine if row.delta_ns_per_token), key=lambda row: -abs(row.delta_ns_per_token))
    worth = [row for row in rows if abs(row.delta_ns_per_token) >= LEAST * abs(rows[0].delta_ns_per_token)][:MAX_STEPS]
    others = len(rows) - len(worth)
    if others == 1:
        worth, others = rows, 0
    now = phase.a_ns_per_token
    found = [Step(f"before, per {phase.per}", 0.0, now, "--side-a", is_sum=True)]
    for row in worth:
        then = now + row.delta_ns_per_token
        found.append(Step(clean(row.name, LONGEST), now, then, _colour(row), mark=words.one_sided(row)))
        now = then
    rest = phase.b_ns_per_token - now
    if others:
        found.append(Step(f"{others} other rows together", now, phase.b_ns_per_token, "--unsure"))
    elif abs(rest) > 1e-6 * max(phase.a_ns_per_token, phase.b_ns_per_token):
        found.append(Step("not known by operator", now, phase.b_ns_per_token, "--unsure"))
    return [*found, Step(f"after, per {phase.per}", 0.0, phase.b_ns_per_token, "--side-b", is_sum=True)]


def _colour(row: Row) -> str:
    if not row.significant:
        return "--unsure"
    return "--slower" if row.delta_ns_per_token > 0 else "--faster"


def _figure(bars: Sequence[Step]) -> dict[str, Any]:
    scale = 1e6  # ms
    return {
        "data": [
            {
                "type": "bar", "orientation": "h", "showlegend": False, "width": 0.3,
                "y": list(range(len(bars))),
                "base": [round(min(one.begin_ns, one.end_ns) / scale, 6) for one in bars],
                "x": [round(abs(one.end_ns - one.begin_ns) / scale, 6) for one in bars],
                "marker": {
                    "color": [one.colour for one in bars], "line": {"width": 0},
                    "pattern": {"shape": ["/" if one.mark else "" for one in bars], "size": 6, "solidity": 0.35},
                },
                "text": [_escaped(f"{one.name}: {_value(one)}") for one in bars], "textposition": "none",
                "hovertemplate": "%{text}<extra></extra>",
            }
        ],
        "layout": {
            "height": 48 + ROW * len(bars), "margin": {"l": 12, "r": 12, "t": 4, "b": 44},
            "xaxis": {"range": [round(one / scale, 6) for one in _range(bars)], "ticksuffix": " ms", "nticks": 6},
            "yaxis": {"visible": False, "range": [len(bars) - 0.5, -0.85]},
            "shapes": [
                {"type": "line", "layer": "below", "line": {"color": "--faint-ink", "width": 1, "dash": "dot"},
                 "x0": round(one.end_ns / scale, 6), "x1": round(one.end_ns / scale, 6), "y0": at, "y1": at + 1}
                for at, one in enumerate(bars[:-1])
            ],
            "annotations": [note for at, one in enumerate(bars) for note in _notes(at, one)],
        },
        "zone": {"left": 0, "right": 0, "narrow": 0, "below": 540},
    }  # fmt: skip


def _range(bars: Sequence[Step]) -> tuple[float, float]:
    """From zero where the change is large enough to be seen so; else around the change, sums cut off at the left."""
    between = [edge for one in bars for edge in ((one.end_ns,) if one.is_sum else (one.begin_ns, one.end_ns))]
    low, high = min(between), max(between)
    if high - low >= FROM_ZERO * high or high <= 0:
        return min(0.0, low), high * 1.04 if high > 0 else 1.0
    margin = max(high - low, 0.01 * high)
    return max(0.0, low - 0.5 * margin), high + 0.06 * margin


def _notes(at: int, one: Step) -> list[dict[str, Any]]:
    name = f"{one.mark}: {one.name}" if one.mark else one.name
    plain = {"xref": "paper", "yref": "y", "y": at, "showarrow": False, "yshift": LABEL_UP,
             "bgcolor": "--card", "borderpad": 1}  # fmt: skip
    ink = {"size": 12.5, "color": "--ink" if one.is_sum else "--soft-ink"}
    value, whole, short = _escaped(_value(one)), _escaped(name, NAME), _escaped(name, SHORT_NAME)
    return [
        {**plain, "x": 0, "xanchor": "left", "font": ink, "text": whole, "short": short},
        {**plain, "x": 1, "xanchor": "right", "font": {**ink, "color": "--ink"}, "text": value, "short": value},
    ]  # fmt: skip


def _escaped(text: str, limit: int = 200) -> str:
    """plotly reads a few tags in texts, and only the entities of <, > and &."""
    return html.escape(clean(text, limit), quote=False)


def _value(one: Step) -> str:
    return duration(one.end_ns) if one.is_sum else words.change(one.end_ns - one.begin_ns)
