"""The summary charts of the HTML page, as plotly figures in plain dicts. Colours are names of the page's CSS variables
(`--attention`, …); js/page.js puts in their values, so the charts follow the light and the dark scheme. A chart with a
figure for each phase is `{"by": {phase: figure}}`: the page offers the choice. A figure that shows only a part says so
in its `note`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flowprof.profiler.report import Report
from flowprof.profiler.sections.drift import Drift, Slope
from flowprof.profiler.sections.experts import ExpertLayer, ExpertTable
from flowprof.profiler.sections.groups import BlockTable, LayerTable
from flowprof.profiler.sections.threads import ThreadTable
from flowprof.profiler.sections.verdicts import VerdictTable
from flowprof.profiler.sections.waits import WaitRow, WaitTable
from flowprof.profiler.timeline import Timeline
from flowprof.viewers import pools
from flowprof.viewers.packing import BLOCKS
from flowprof.viewers.quantity import clean, count, duration
from flowprof.viewers.roofline import rooflines

MAX_POINTS = 400
MAX_LAYERS = 300
MAX_THREADS = 64
MAX_CELLS = 60_000  # of the experts' heat map
HEATS = 7  # --heat0 … --heat6


def charts(report: Report, timeline: Timeline) -> dict[str, dict[str, Any]]:
    """Figures by id, only those that have data."""
    made = {
        "roofline": _by_phase(rooflines(report.get(VerdictTable))),
        "waits": _by_phase(_waits(report.get(WaitTable))),
        "experts": _by_phase(experts(report.get(ExpertTable))),
        "blocks": _blocks(report.get(BlockTable)),
        "layers": _layers(report.get(LayerTable)),
        "threads": _threads(report.get(ThreadTable)),
        "steps": _steps(timeline),
        "drift": _drift(report.get(Drift)),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def _by_phase(figures: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    if not figures:
        return None
    notes = [f"{phase}: {note}" for phase, figure in figures.items() if (note := figure.pop("note", ""))]
    return {"by": figures, "note": " ".join(notes)}


def rest(shown: int, whole: int, what: str) -> str:
    """In words how many were left out of a chart; "" when all are in it."""
    return f"The first {shown} of {count(whole)} {what}; the others are in the table." if whole > shown else ""


def _waits(table: WaitTable | None) -> dict[str, dict[str, Any]]:
    """Where every pool thread's time went, in % of its wall time."""
    phases: dict[str, list[WaitRow]] = {}
    for row in table.rows if table is not None else ():
        if row.wall_ns > 0:
            phases.setdefault(row.phase, []).append(row)
    return {clean(phase, 20): _wait_bars(rows) for phase, rows in phases.items()}


def _wait_bars(whole: list[WaitRow]) -> dict[str, Any]:
    rows = whole[:MAX_THREADS]
    parts = [
        ("work", "--compute", [row.work_ns for row in rows]),
        ("barrier", "--wait", [row.barrier_ns for row in rows]),
        ("no processor", "--state-runnable", [row.runnable_ns for row in rows]),
        ("blocked", "--state-sleeping", [row.blocked_ns for row in rows]),
        ("disk", "--state-fault", [row.fault_ns for row in rows]),
    ]
    names = pools.names(rows)
    return {
        "data": [
            {"type": "bar", "orientation": "h", "name": name, "y": names,
             "x": [round(100 * value / row.wall_ns, 2) for value, row in zip(values, rows, strict=True)],
             "marker": {"color": colour}, "text": [duration(value) for value in values], "textposition": "none",
             "hovertemplate": f"thread %{{y}}: {name} %{{x:.1f}} % of its wall time, %{{text}}<extra></extra>"}
            for name, colour, values in parts
            if name in ("work", "barrier") or any(values)
        ],
        "note": rest(len(rows), len(whole), "threads"),
        "layout": {"barmode": "stack", "height": 96 + (30 if len(rows) <= 16 else 16) * len(rows), "bargap": 0.3,
                   "xaxis": {"ticksuffix": " %", "range": [0, 100], "dtick": 25},
                   "yaxis": {"type": "category", "autorange": "reversed", "title": {"text": "thread"}}},
    }  # fmt: skip


def experts(table: ExpertTable | None) -> dict[str, dict[str, Any]]:
    """Layer by layer the share of the uses that every expert took; beside it how evenly."""
    phases: dict[str, list[ExpertLayer]] = {}
    for row in table.layers if table is not None else ():
        if row.counts and sum(row.counts):
            phases.setdefault(row.phase, []).append(row)
    return {clean(phase, 20): _heat_map(rows) for phase, rows in phases.items()}


def _heat_map(whole: list[ExpertLayer]) -> dict[str, Any]:
    wide = max(len(row.counts) for row in whole)
    rows = whole[: max(1, MAX_CELLS // wide)]
    several = len({row.pid for row in rows}) > 1
    names = [f"{'–' if row.layer is None else row.layer}{f' (pid {row.pid})' if several else ''}" for row in rows]
    shares = [[round(100 * uses / sum(row.counts), 3) for uses in row.counts] for row in rows]
    return {
        "data": [
            {"type": "heatmap", "y": names, "z": shares, "zmin": 0, "xgap": 1 if wide <= 64 else 0,
             "ygap": 1 if len(rows) <= 64 else 0,
             "colorscale": [[number / (HEATS - 1), f"--heat{number}"] for number in range(HEATS)],
             "colorbar": {"ticksuffix": " %", "thickness": 12, "outlinewidth": 0, "nticks": 5, "x": 1.01},
             "hoverongaps": False,
             "hovertemplate": "layer %{y}, expert %{x}: %{z:.2f} % of the uses<extra></extra>"},
            {"type": "bar", "orientation": "h", "y": names, "x": [round(100 * row.entropy_share, 1) for row in rows],
             "xaxis": "x2", "marker": {"color": "--moe"}, "showlegend": False,
             "hovertemplate": "layer %{y}: entropy %{x:.1f} % of uniform<extra></extra>"},
        ],
        "note": rest(len(rows), len(whole), "layers"),
        "layout": {
            "height": 120 + max(90, min(480, 24 * len(rows))), "margin": {"l": 50, "r": 10, "t": 26, "b": 44},
            "bargap": 0.25,
            "xaxis": {"title": {"text": "expert"}, "domain": [0, 0.8], "showgrid": False, "tickformat": "d",
                      "dtick": 1 if wide <= 16 else None},
            "xaxis2": {"domain": [0.84, 1], "range": [0, 100], "tickvals": [0, 50, 100], "ticksuffix": " %",
                       "fixedrange": True, "gridcolor": "--line", "zerolinecolor": "--line",
                       "title": {"text": "entropy", "font": {"size": 12.5}, "standoff": 8}},
            "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "title": {"text": "layer"}},
        },
    }  # fmt: skip


def _blocks(table: BlockTable | None) -> dict[str, Any] | None:
    if table is None or not table.rows:
        return None
    phases = list(dict.fromkeys(row.phase for row in table.rows))
    shares = {(row.group, row.phase): row.share * 100 for row in table.rows}
    blocks = [block for block in BLOCKS if any((block, phase) in shares for phase in phases)]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": block,
            "y": phases[::-1],
            "x": [round(shares.get((block, phase), 0.0), 2) for phase in phases[::-1]],
            "marker": {"color": f"--{block}"},
            "hovertemplate": f"{block}: %{{x:.1f}} % of %{{y}}<extra></extra>",
        }
        for block in blocks
    ]
    return {"data": data, "layout": {"barmode": "stack", "xaxis": {"ticksuffix": " %", "range": [0, 100], "dtick": 25},
                                     "bargap": 0.35}}  # fmt: skip


def _layers(table: LayerTable | None) -> dict[str, Any] | None:
    if table is None or not table.rows:
        return None
    phase = table.rows[0].phase
    whole = [row for row in table.rows if row.phase == phase and row.group.isdigit()]
    rows = whole[:MAX_LAYERS]
    if not rows:
        return None
    numbers = [int(row.group) for row in rows]
    median = [round(row.p50_ns / 1e3, 2) for row in rows]
    tail = [round(max(0.0, row.p99_ns - row.p50_ns) / 1e3, 2) for row in rows]
    return {
        "title": f"Layers in {phase}: time per graph, µs (median; thin: to the 99th percentile)",
        "note": rest(len(rows), len(whole), "layers"),
        "data": [
            {"type": "bar", "name": "median", "x": numbers, "y": median, "marker": {"color": "--attention"},
             "hovertemplate": "layer %{x}: median %{y} µs<extra></extra>"},
            {"type": "bar", "name": "to p99", "x": numbers, "y": tail, "base": median, "width": 0.25,
             "marker": {"color": "--faint-ink"}, "hovertemplate": "layer %{x}: + %{y} µs to p99<extra></extra>"},
        ],
        "layout": {"barmode": "overlay", "showlegend": False, "yaxis": {"rangemode": "tozero"},
                   "xaxis": {"title": {"text": "layer"}}},
    }  # fmt: skip


def _threads(table: ThreadTable | None) -> dict[str, Any] | None:
    if table is None or not table.rows:
        return None
    phase = table.rows[0].phase
    whole = [row for row in table.rows if row.phase == phase and row.compute_ns_per_token is not None]
    rows = whole[:MAX_THREADS]
    if not rows:
        return None
    names = pools.names(rows)
    return {
        "title": f"Threads in {phase}: compute and barrier wait, µs per token",
        "note": rest(len(rows), len(whole), "threads"),
        "data": [
            {"type": "bar", "name": name, "x": names,
             "y": [round((value or 0) / 1e3, 2) for value in values], "marker": {"color": colour},
             "hovertemplate": f"thread %{{x}}: {name} %{{y}} µs per token<extra></extra>"}
            for name, colour, values in (
                ("compute", "--compute", [row.compute_ns_per_token for row in rows]),
                ("barrier wait", "--wait", [row.wait_ns_per_token for row in rows]),
            )
        ],
        "layout": {"barmode": "stack", "xaxis": {"title": {"text": "thread"}, "type": "category"},
                   "yaxis": {"rangemode": "tozero"}, "bargap": 0.4},
    }  # fmt: skip


def _steps(timeline: Timeline) -> dict[str, Any] | None:
    """Decode steps along the recording, in at most MAX_POINTS stretches with as many steps each."""
    if "decode" not in timeline.phases or not timeline.graphs:
        return None
    number = timeline.phases.index("decode")
    start = np.concatenate([lane.start_ns[lane.phase == number] for lane in timeline.graphs])
    duration = np.concatenate([lane.dur_ns[lane.phase == number] for lane in timeline.graphs])
    if len(start) < 2:
        return None
    order = np.argsort(start, kind="stable")
    parts = np.array_split(order, min(MAX_POINTS, len(order)))
    at = [round(float(start[part].mean()) / 1e9, 4) for part in parts]
    median = [round(float(np.median(duration[part])) / 1e6, 4) for part in parts]
    highest = [round(float(duration[part].max()) / 1e6, 4) for part in parts]
    data: list[dict[str, Any]] = []
    if len(order) > MAX_POINTS:
        data.append({"type": "scatter", "mode": "lines", "name": "slowest", "x": at, "y": highest,
                     "line": {"color": "--faint-ink", "width": 1},
                     "hovertemplate": "%{x:.2f} s: slowest %{y:.2f} ms<extra></extra>"})  # fmt: skip
    data.append({"type": "scatter", "mode": "lines", "name": "median", "x": at, "y": median,
                 "line": {"color": "--attention", "width": 1.5},
                 "hovertemplate": "%{x:.2f} s: %{y:.2f} ms<extra></extra>"})  # fmt: skip
    return {"data": data, "layout": {"yaxis": {"rangemode": "tozero"}, "showlegend": len(data) > 1,
                                     "xaxis": {"title": {"text": "seconds since the first event"}}}}  # fmt: skip


def _drift(drift: Drift | None) -> dict[str, Any] | None:
    """Step time by context with its fitted line, and the part of what reads the cache."""
    if drift is None or drift.step is None or not drift.points:
        return None
    points = drift.points[:: -(-len(drift.points) // MAX_POINTS)]
    ends = [drift.points[0].context, drift.points[-1].context]
    measured = [point for point in points if point.attention_p50_ns is not None]
    attention = [round((point.attention_p50_ns or 0.0) / 1e6, 4) for point in measured]
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "markers", "name": "step, p10 to p90", "x": [point.context for point in points],
         "y": [round(point.step_p50_ns / 1e6, 4) for point in points], "marker": {"color": "--decode", "size": 7},
         "error_y": {"type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": "--faint-ink",
                     "array": [round((point.step_p90_ns - point.step_p50_ns) / 1e6, 4) for point in points],
                     "arrayminus": [round((point.step_p50_ns - point.step_p10_ns) / 1e6, 4) for point in points]},
         "hovertemplate": "%{x} tokens: median step %{y:.2f} ms<extra></extra>"},
        _fitted("step, fitted", drift.step, ends, "--decode"),
    ]  # fmt: skip
    if attention:
        data.append({"type": "scatter", "mode": "markers", "name": "reads the cache",
                     "x": [point.context for point in measured], "y": attention,
                     "marker": {"color": "--attention", "size": 7, "symbol": "diamond"},
                     "hovertemplate": "%{x} tokens: attention over the cache %{y:.2f} ms<extra></extra>"})  # fmt: skip
    if attention and drift.attention is not None:
        ends = [measured[0].context, measured[-1].context]
        data.append(_fitted("fitted", drift.attention, ends, "--attention"))
    return {"data": data, "layout": {"yaxis": {"rangemode": "tozero", "ticksuffix": " ms"},
                                     "xaxis": {"title": {"text": "tokens of context (n_kv, padded)"}}}}  # fmt: skip


def _fitted(name: str, slope: Slope, ends: list[int], colour: str) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "name": name, "x": ends, "showlegend": False, "hoverinfo": "skip",
            "y": [round(slope.at_least_ns / 1e6, 4), round(slope.at_most_ns / 1e6, 4)],
            "line": {"color": colour, "width": 1.5, "dash": "dot"}}  # fmt: skip
