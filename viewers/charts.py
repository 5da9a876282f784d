"""The summary charts of the HTML page, as plotly figures in plain dicts. Colours are names of the page's CSS variables
(`--attention`, …); js/page.js puts in their values, so the charts follow the light and the dark scheme.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flowprof.profiler.report import Report
from flowprof.profiler.sections import BlockTable, LayerTable, ThreadTable
from flowprof.profiler.timeline import Timeline
from flowprof.viewers.packing import BLOCKS

MAX_POINTS = 400
MAX_LAYERS = 300
MAX_THREADS = 128


def charts(report: Report, timeline: Timeline) -> dict[str, dict[str, Any]]:
    """Figures by id, only those that have data."""
    made = {
        "blocks": _blocks(report.get(BlockTable)),
        "layers": _layers(report.get(LayerTable)),
        "threads": _threads(report.get(ThreadTable)),
        "steps": _steps(timeline),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


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
    return {"data": data, "layout": {"barmode": "stack", "xaxis": {"ticksuffix": " %", "range": [0, 100], "dtick": 20},
                                     "bargap": 0.35}}  # fmt: skip


def _layers(table: LayerTable | None) -> dict[str, Any] | None:
    if table is None or not table.rows:
        return None
    phase = table.rows[0].phase
    rows = [row for row in table.rows if row.phase == phase and row.group.isdigit()][:MAX_LAYERS]
    if not rows:
        return None
    numbers = [int(row.group) for row in rows]
    median = [round(row.p50_ns / 1e3, 2) for row in rows]
    tail = [round(max(0.0, row.p99_ns - row.p50_ns) / 1e3, 2) for row in rows]
    return {
        "title": f"Layers in {phase}: time per graph, µs (median; thin: to the 99th percentile)",
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
    rows = [row for row in table.rows if row.phase == phase and row.compute_ns_per_token is not None][:MAX_THREADS]
    if not rows:
        return None
    names = [f"{row.ith}" for row in rows]
    return {
        "title": f"Threads in {phase}: compute and barrier wait, µs per token",
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
