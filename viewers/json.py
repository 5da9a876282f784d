"""The report as JSON, for scripts. `SCHEMA_VERSION` grows when a field changes its meaning; fields may be added."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from flowprof.profiler.findings import Finding
from flowprof.profiler.report import Report
from flowprof.profiler.sections.blocked import BlockedTable
from flowprof.profiler.sections.counters import CounterTable
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.cuda_host import CudaHost
from flowprof.profiler.sections.dag import DagGraph, DagGroup, DagTable
from flowprof.profiler.sections.drift import Drift
from flowprof.profiler.sections.experts import ExpertTable
from flowprof.profiler.sections.gpu import GpuTable
from flowprof.profiler.sections.groups import BlockTable, LayerTable
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.operator_counters import OperatorCounterTable
from flowprof.profiler.sections.operators import OperatorTable
from flowprof.profiler.sections.overhead import Overhead
from flowprof.profiler.sections.overlap import Overlap, OverlapTable
from flowprof.profiler.sections.processes import ProcessTable
from flowprof.profiler.sections.requests import RequestRow, RequestTable
from flowprof.profiler.sections.resources import Blamed, ResourceTable
from flowprof.profiler.sections.slo import SloTable
from flowprof.profiler.sections.summary import Summary
from flowprof.profiler.sections.thread_count import ThreadAdviceTable
from flowprof.profiler.sections.threads import ThreadTable
from flowprof.profiler.sections.torch_operators import TorchOperators
from flowprof.profiler.sections.verdicts import VerdictTable
from flowprof.profiler.sections.waits import WaitTable
from flowprof.viewers import resources

SCHEMA_VERSION = 1


def render(report: Report) -> str:
    """The whole report as a JSON text, with a newline at its end."""
    return json.dumps(finite(document(report)), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def document(report: Report) -> dict[str, Any]:
    """The report as plain dicts and lists. A section that could not be made is empty; `sections` says why."""
    summary = report.get(Summary)
    operators, layers, blocks = report.get(OperatorTable), report.get(LayerTable), report.get(BlockTable)
    threads, requests = report.get(ThreadTable), report.get(RequestTable)
    losses, overhead = report.get(Losses), report.get(Overhead)
    graph, drift, experts = report.get(DagTable), report.get(Drift), report.get(ExpertTable)
    return {
        "schema_version": SCHEMA_VERSION,
        "recording": asdict(report.source)
        | ({"duration_ns": summary.duration_ns, "busy_ns": summary.busy_ns} if summary else {}),
        "engine": _engine(report, summary),
        "phases": [asdict(phase) for phase in summary.phases] if summary else [],
        "latency": asdict(summary.latency) if summary else {},
        "operators": [asdict(row) for row in operators.rows] if operators else [],
        "layers": [asdict(row) for row in layers.rows] if layers else [],
        "blocks": [asdict(row) for row in blocks.rows] if blocks else [],
        "verdicts": _verdicts(report.get(VerdictTable)),
        "threads": _threads(threads, report.get(WaitTable)),
        "waits": _waits(report.get(WaitTable)),
        "blocked": asdict(blocked) if (blocked := report.get(BlockedTable)) else {},
        "thread_count": asdict(advice) if (advice := report.get(ThreadAdviceTable)) else {},
        "counters": asdict(counters) if (counters := report.get(CounterTable)) else {},
        "operator_counters": asdict(counted) if (counted := report.get(OperatorCounterTable)) else {},
        "coverage": {
            "operators": _coverage(operators.coverage if operators else ()),
            "threads": _coverage(threads.coverage if threads else ()),
        },
        "requests": [_request(row) for row in requests.rows] if requests else [],
        "request_totals": _totals(requests) if requests else {},
        "processes": asdict(several) if (several := report.get(ProcessTable)) else {},
        "slo": asdict(slo) if (slo := report.get(SloTable)) else {},
        "resources": [_without_picture(one) for one in resources.in_order_of_blame(report)],
        "resource_totals": _resource_totals(report.get(ResourceTable)),
        "losses": _losses(losses),
        "overhead": asdict(overhead) if overhead else {"ratio": None, "ci95": None, "windows": 0},
        "graph": [_graph(one) for one in graph.graphs] if graph else [],
        "drift": asdict(drift) if drift else {},
        "experts": asdict(experts) if experts else {},
        "gpu": _gpu(report.get(GpuTable), report.get(CudaHost)),
        "torch_operators": asdict(calls) if (calls := report.get(TorchOperators)) else {},
        "overlap": [overlap(one) for one in found.overlaps] if (found := report.get(OverlapTable)) else [],
        "exposure": exposure(found) if found else {},
        "cuda_host": asdict(cuda) if (cuda := report.get(CudaHost)) else {},
        "findings": [asdict(one) for one in _in_order_of_cost(report.findings)],
        "findings_withheld": report.findings_withheld,
        "sections": [
            {"name": outcome.name, "status": outcome.status, "reason": outcome.reason} for outcome in report.sections
        ],
        "notes": list(summary.notes) if summary else [],
    }


def _in_order_of_cost(findings: tuple[Finding, ...]) -> list[Finding]:
    """Whatever their severity; those without a price last, in the report's order."""
    return sorted(findings, key=lambda one: -math.inf if one.cost_ns_per_token is None else one.cost_ns_per_token,
                  reverse=True)  # fmt: skip


def _request(row: RequestRow) -> dict[str, Any]:
    """`id` is the server's number of the task."""
    delayed_by = [asdict(delay) | {"total_ns": delay.total_ns} for delay in row.delayed_by]
    return {"id": row.task_id} | asdict(row) | {"delayed_by": delayed_by}


def _totals(section: RequestTable) -> dict[str, Any]:
    """Without what has a place of its own."""
    return {key: value for key, value in asdict(section).items() if key not in ("rows", "blamed")}


def _engine(report: Report, summary: Summary | None) -> dict[str, Any]:
    return {
        "names": sorted({module.engine for module in summary.modules}) if summary else [],
        "modules": [asdict(module) for module in summary.modules] if summary else [],
        "models": [asdict(model) for model in summary.models] if summary else [],
        "processes": [asdict(process) for process in summary.processes] if summary else [],
        "rung": report.source.rung,
        "rung_reason": report.source.rung_reason,
    }


def _graph(graph: DagGraph) -> dict[str, Any]:
    """Folded; an item with `layers` and `nodes` is a group. Ends of edges are positions (-1, -2: out of the layer)."""
    items = [
        asdict(item) | {"nodes": [_without_members(asdict(node)) for node in item.nodes]}
        if isinstance(item, DagGroup)
        else _without_members(asdict(item))
        for item in graph.items
    ]
    return asdict(graph) | {"items": items}


def _without_members(node: dict[str, Any]) -> dict[str, Any]:
    """Node indexes are of use beside the recording only, and there are many."""
    return {key: value for key, value in node.items() if key != "members"}


def overlap(one: Overlap) -> dict[str, Any]:
    """Without the fields that a GPU's or a processor's overlap has not."""
    return {key: value for key, value in asdict(one).items() if value is not None}


def exposure(table: OverlapTable) -> dict[str, Any]:
    """Time by resource, and what is not advised."""
    return {
        "devices": [asdict(one) for one in table.devices],
        "calls": [asdict(one) for one in table.calls],
        "host": asdict(table.host) if table.host else {},
        "refused": list(table.refused),
        "interference": table.interference,
    }


def _gpu(found: GpuTable | None, host: CudaHost | None) -> dict[str, Any]:
    """Null is what was not observed. Without a GPU's own trace the graphs' share is that of the calls that launch."""
    if found:
        return asdict(found) | {"graph_launch_basis": "of kernels"}
    share, basis = (host.graph_launch_share, "of launching calls") if host else (None, None)
    if host and host.graph_kernel_share is not None:
        share, basis = host.graph_kernel_share, "of kernels, as graphs were captured"
    times = ("busy_ns", "idle_ns", "exposed_copy_ns", "exposed_comm_ns")
    return dict.fromkeys(times) | {
        "graph_launch_share": share,
        "graph_launch_basis": None if share is None else basis,
    }


def _without_picture(one: Blamed) -> dict[str, Any]:
    """Without the arrays that the page draws."""
    return {key: value for key, value in asdict(one).items() if key != "picture"}


def _resource_totals(table: ResourceTable | None) -> dict[str, Any]:
    """What was measured of every resource and task, blamed or not; who waited for whom."""
    if table is None:
        return {}
    return {key: value for key, value in asdict(table).items() if key != "blamed"}


def _losses(losses: Losses | None) -> dict[str, Any]:
    if losses is None:
        return {}
    return asdict(losses) | {"by_place": {place: events for place, events, _ in losses.by_place}}


def _verdicts(table: VerdictTable | None) -> dict[str, Any]:
    """built_for: instruction sets of the engine's kernels; left_unused: the processor's that multiply int8 better."""
    if table is None:
        return {"groups": [], "phases": []}
    return {
        "groups": [asdict(row) for row in table.rows],
        "phases": [asdict(phase) | {"by_bound": dict(phase.by_bound)} for phase in table.phases],
        "ceilings": [asdict(item) for item in table.ceilings],
        "coverage": _coverage(table.coverage),
        "fixed_ns": table.fixed_ns,
        "llc_bytes": table.llc_bytes,
        "scheduler": table.scheduler,
        "withheld": table.withheld,
        "built_for": list(table.built_for),
        "left_unused": list(table.left_unused),
        "notes": list(table.notes),
    }


def _coverage(items: tuple[Coverage, ...]) -> list[dict[str, Any]]:
    return [asdict(item) for item in items]


def finite(value: Any) -> Any:
    """JSON knows no NaN: such a number is not known, null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _threads(threads: ThreadTable | None, waits: WaitTable | None) -> list[dict[str, Any]]:
    """A row per phase and pool thread. operators, compute_ns and wait_ns are of its operators that have a barrier;
    where the scheduler was recorded the parts of its time in graphs come too, and add up to wall_ns."""
    rows = {(row.phase, row.driver_tid, row.tid): asdict(row) for row in (threads.rows if threads else ())}
    for row in waits.rows if waits else ():
        key = (row.phase, row.driver_tid, row.tid)
        rows[key] = rows.get(key, {}) | asdict(row)
    return list(rows.values())


def _waits(waits: WaitTable | None) -> dict[str, Any]:
    if waits is None:
        return {}
    return {
        "causes": [asdict(cause) for cause in waits.causes],
        "major_faults": waits.major_faults,
        "lost_share": waits.lost_share,
        "withheld": waits.withheld,
        "notes": list(waits.notes),
        "roots": [asdict(root) for root in waits.roots],
        "roots_ns": [{"phase": phase, "wait": wait, "total_ns": ns} for phase, wait, ns in waits.roots_ns],
    }
