"""The report as one HTML page that works from a file, without network: text and tables first, then the rest.

Everything is inside: the template (escaping on), styles, our scripts, plotly (compressed) and the timeline's arrays
(packing.py). A content security policy forbids every connection and every script that is not ours; data is decoded
after the first paint. A browser without DecompressionStream still shows all tables.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from flowprof.profiler.findings import Finding
from flowprof.profiler.report import Report
from flowprof.profiler.sections.blocked import BlockedTable
from flowprof.profiler.sections.bound import BOUNDS
from flowprof.profiler.sections.counters import CounterTable
from flowprof.profiler.sections.cuda_host import CudaHost
from flowprof.profiler.sections.dag import DagTable
from flowprof.profiler.sections.drift import Drift
from flowprof.profiler.sections.experts import ExpertTable
from flowprof.profiler.sections.gpu import GpuTable
from flowprof.profiler.sections.groups import BlockTable, LayerTable
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.operator_counters import OperatorCounterTable
from flowprof.profiler.sections.operators import OperatorTable
from flowprof.profiler.sections.overhead import Overhead
from flowprof.profiler.sections.overlap import OverlapTable
from flowprof.profiler.sections.probes import Probes
from flowprof.profiler.sections.processes import ProcessTable
from flowprof.profiler.sections.requests import RequestTable
from flowprof.profiler.sections.resources import ResourceTable
from flowprof.profiler.sections.slo import SloTable
from flowprof.profiler.sections.summary import Phase, Summary
from flowprof.profiler.sections.thread_count import ThreadAdviceTable
from flowprof.profiler.sections.threads import ThreadTable
from flowprof.profiler.sections.torch_operators import TorchOperators
from flowprof.profiler.sections.verdicts import VerdictTable
from flowprof.profiler.sections.waits import WaitTable
from flowprof.profiler.timeline import Timeline
from flowprof.viewers import causes, cuda, leads, missed, pools, quantity, requests, resources, roofline
from flowprof.viewers.charts import charts
from flowprof.viewers.dag import graph_data
from flowprof.viewers.packing import pack
from flowprof.viewers.page import TIMELINE, assets, environment

SCRIPTS = (*TIMELINE, "tables.js", "dag.js", "page.js")
MAX_VERDICTS = 500  # rows of the table
MAX_THREADS = 16  # of a row's details
MAX_CACHES = 8  # charts of KV caches
MAX_ROWS = 600  # of the tables of layers, blocks, threads and experts
SECTIONS = {  # what a finding is about, by the analyzer that made it: the part of the page, and its name
    "summary": ("time", "Timeline"), "operators": ("operators", "Operators"), "layers": ("layers", "Layers and blocks"),
    "blocks": ("layers", "Layers and blocks"), "verdicts": ("bounds", "Bounds"), "threads": ("waits", "Waits"),
    "waits": ("waits", "Waits"), "blocked": ("waits", "Waits"), "counters": ("waits", "Waits"),
    "operator_counters": ("bounds", "Bounds"), "thread_count": ("waits", "Waits"),
    "experts": ("experts", "Experts"),
    "drift": ("context", "Context"), "dag": ("graph", "Graph"), "requests": ("requests", "Requests"),
    "processes": ("waits", "Waits"),
    "resources": ("resources", "Resources"),
    "overhead": ("honesty", "Overhead and losses"), "losses": ("honesty", "Overhead and losses"),
    "probes": ("probes", "Probes"), "gpu": ("gpu", "GPU"), "cuda_host": ("cuda", "CUDA calls"),
    "overlap": ("overlap", "Overlap"),
    "torch_operators": ("torch", "PyTorch operators"),
}  # fmt: skip
LIMITS = {  # of a phase, in words
    "memory-dram": "this machine's memory", "memory-cache": "this machine's last-level cache",
    "compute": "this machine's arithmetic", "unknown": "this machine's cache or memory",
}  # fmt: skip
STATES = {"runnable": "no processor", "sleeping": "asleep", "fault": "disk read of a mapped page",
          "disk": "uninterruptible (disk, driver)", "stopped": "stopped"}  # fmt: skip

SIGNS = {"compute": "■", "memory-dram": "●", "memory-cache": "◆", "overhead": "▲", "wait": "▼", "inefficient": "★",
         "unknown": "✕"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shown:
    """A finding with what the page adds to it."""

    finding: Finding
    share: float | None  # of its phase's time per token
    anchor: str
    section: str


def render(report: Report, timeline: Timeline) -> str:
    """The whole page."""
    description, arrays = pack(timeline)
    verdicts = report.get(VerdictTable)
    template = _environment().get_template("report.html")
    return template.render(
        **assets(("report.css",), SCRIPTS),
        description=description,
        arrays=arrays,
        charts=charts(report, timeline),
        graph=graph_data(report.get(DagTable)),
        drift=report.get(Drift),
        report=report,
        findings=_findings(report),
        verdicts=verdicts,
        leads=leads.Leads(verdicts),
        operator_leads=leads.of_operators,
        waits=report.get(WaitTable),
        blocked=report.get(BlockedTable),
        advice=report.get(ThreadAdviceTable),
        processes=report.get(ProcessTable),
        counters=report.get(CounterTable),
        counted=report.get(OperatorCounterTable),
        experts=report.get(ExpertTable),
        gpu=report.get(GpuTable),
        torch=report.get(TorchOperators),
        overlap=report.get(OverlapTable),
        cuda=(cuda_host := report.get(CudaHost)),
        cuda_sentence=cuda.sentence(cuda_host) if cuda_host else "",
        cuda_sheets=cuda.sheets(cuda_host) if cuda_host else [],
        bounds={} if verdicts is None or verdicts.withheld else {bound.phase: bound for bound in verdicts.phases},
        limits=LIMITS,
        bound_names=BOUNDS,
        symbols=SIGNS,
        seen_bounds={row.bound for row in roofline.placeable(verdicts.rows)} if verdicts else set(),
        unplaced=_unplaced(verdicts),
        states=STATES,
        max_verdicts=MAX_VERDICTS,
        max_threads=MAX_THREADS,
        max_rows=MAX_ROWS,
        max_caches=MAX_CACHES,
        source=report.source,
        timeline=timeline,
        when=_when(report.source.started_unix_ns),
        summary=report.get(Summary),
        engines=_engines(report),
        decode=_phase(report, "decode"),
        prefill=_phase(report, "prefill"),
        operators=report.get(OperatorTable),
        layers=report.get(LayerTable),
        blocks=report.get(BlockTable),
        threads=report.get(ThreadTable),
        requests=(asked := report.get(RequestTable)),
        falls=requests.waterfall(asked) if asked else None,
        slo=report.get(SloTable),
        resources=report.get(ResourceTable),
        resource_cards=resources.cards(blamed := resources.in_order_of_blame(report)),
        blamed=blamed,
        overhead=report.get(Overhead),
        losses=report.get(Losses),
        probes=report.get(Probes),
    )


def _engines(report: Report) -> list[str]:
    """Each with its version, once however many files and processes have it."""
    summary = report.get(Summary)
    return sorted({f"{one.engine} {one.engine_version}".strip() for one in summary.modules}) if summary else []


def _findings(report: Report) -> list[Shown]:
    """Problems before notices, the dearest of each first, as the report orders them."""
    summary = report.get(Summary)
    per_token = {one.phase: one.total_ns / one.tokens for one in summary.phases if one.tokens} if summary else {}
    shown = []
    for finding in report.findings:
        whole = per_token.get(finding.phase)
        share = finding.cost_ns_per_token / whole if whole and finding.cost_ns_per_token is not None else None
        if share is not None and share > 1:  # of slow graphs among those measured: no part of the mean token
            share = None
        anchor, section = SECTIONS.get(finding.id.split(".", 1)[0], ("operators", "Operators"))
        shown.append(Shown(finding, share, anchor, section))
    return shown


def _unplaced(table: VerdictTable | None) -> list[tuple[str, float]]:
    """Phases, and the share of their time in operators that have no place on the roofline, where that is noteworthy."""
    if table is None:
        return []
    shares = {row.phase: 0.0 for row in roofline.placeable(table.rows)}
    for row in table.rows:
        if row.phase in shares and not (row.gflops and row.intensity):
            shares[row.phase] += row.share
    return [(phase, share) for phase, share in shares.items() if share >= 0.005]


def _names(names: Sequence[str]) -> str:
    """As the graph's nodes are called, for the script that leads there."""
    return json.dumps([quantity.clean(name, 80) for name in names])


def _phase(report: Report, name: str) -> Phase | None:
    summary = report.get(Summary)
    return next((phase for phase in summary.phases if phase.phase == name), None) if summary else None


def _environment() -> jinja2.Environment:
    made = environment()
    made.filters.update(
        giga=_giga,
        names=_names,
        root=causes.words,
        direct=causes.direct,
        ceiling=roofline.label,
        blame=requests.blame,
        called=requests.called,
        operators=requests.operators,
        cells=requests.outline,
        idle=missed.idle,
        gap_parts=missed.gap_parts,
        idle_cells=requests.outline_idle,
        kept=requests.kept,
        slack=requests.slack,
        placeable=roofline.placeable,
    )
    made.globals["slowdown"] = quantity.slowdown
    made.globals["pool_names"] = pools.names
    return made


def _giga(value: float | None) -> str:
    """1e9 units a second with three figures."""
    return "–" if value is None else quantity.three(value)


def _when(unix_ns: int | None) -> dict[str, Any]:
    if unix_ns is None or not 0 < unix_ns < 4e18:
        return {"text": "", "iso": ""}
    moment = datetime.datetime.fromtimestamp(unix_ns / 1e9, datetime.UTC)
    return {"text": f"{moment:%Y-%m-%d %H:%M:%S} UTC", "iso": moment.isoformat()}
