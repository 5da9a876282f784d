"""The report as one HTML page that works from a file, without network: text and tables first, then the rest.

Everything is inside: the template (escaping on), styles, our scripts, plotly (compressed) and the timeline's arrays
(packing.py). A content security policy forbids every connection and every script that is not ours; data is decoded
after the first paint. A browser without DecompressionStream still shows all tables.
"""

from __future__ import annotations

import datetime
import importlib.resources
import secrets
from pathlib import Path
from typing import Any

import jinja2
from flowprof.profiler.report import Report
from flowprof.profiler.sections import (
    BlockTable,
    LayerTable,
    Losses,
    OperatorTable,
    Overhead,
    Phase,
    Probes,
    RequestTable,
    Summary,
    ThreadTable,
)
from flowprof.profiler.timeline import Timeline
from flowprof.viewers import quantity
from flowprof.viewers.charts import charts
from flowprof.viewers.packing import compress, pack

HERE = Path(__file__).parent
SCRIPTS = ("timeline.js", "tables.js", "page.js")


def render(report: Report, timeline: Timeline) -> str:
    """The whole page."""
    description, arrays = pack(timeline)
    template = _environment().get_template("report.html")
    return template.render(
        nonce=secrets.token_urlsafe(16),
        style=(HERE / "templates" / "report.css").read_text(encoding="utf-8"),
        script="\n".join((HERE / "js" / name).read_text(encoding="utf-8") for name in SCRIPTS),
        plotly=_plotly(),
        description=description,
        arrays=arrays,
        charts=charts(report, timeline),
        report=report,
        source=report.source,
        timeline=timeline,
        when=_when(report.source.started_unix_ns),
        summary=report.get(Summary),
        decode=_phase(report, "decode"),
        prefill=_phase(report, "prefill"),
        operators=report.get(OperatorTable),
        layers=report.get(LayerTable),
        blocks=report.get(BlockTable),
        threads=report.get(ThreadTable),
        requests=report.get(RequestTable),
        overhead=report.get(Overhead),
        losses=report.get(Losses),
        probes=report.get(Probes),
    )


def _phase(report: Report, name: str) -> Phase | None:
    summary = report.get(Summary)
    return next((phase for phase in summary.phases if phase.phase == name), None) if summary else None


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clean=quantity.clean,
        count=quantity.count,
        dur=quantity.duration,
        percent=quantity.percent,
        size=quantity.size,
        many=quantity.many,
        rate=quantity.rate,
    )
    environment.globals["slowdown"] = quantity.slowdown
    return environment


def _plotly() -> str:
    """plotly's script, compressed; "" when this installation lacks it: the page then has no charts."""
    try:
        script = importlib.resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    except (ModuleNotFoundError, OSError):
        return ""
    return compress(script)


def _when(unix_ns: int | None) -> dict[str, Any]:
    if unix_ns is None or not 0 < unix_ns < 4e18:
        return {"text": "", "iso": ""}
    moment = datetime.datetime.fromtimestamp(unix_ns / 1e9, datetime.UTC)
    return {"text": f"{moment:%Y-%m-%d %H:%M:%S} UTC", "iso": moment.isoformat()}
