"""The report as JSON, for scripts. `SCHEMA_VERSION` grows when a field changes its meaning; fields may be added."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from flowprof.profiler.report import Report
from flowprof.profiler.sections import (
    BlockTable,
    Coverage,
    LayerTable,
    Losses,
    OperatorTable,
    Overhead,
    RequestTable,
    Summary,
    ThreadTable,
)

SCHEMA_VERSION = 1


def render(report: Report) -> str:
    """The whole report as a JSON text, with a newline at its end."""
    return json.dumps(_finite(document(report)), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def document(report: Report) -> dict[str, Any]:
    """The report as plain dicts and lists. A section that could not be made is empty; `sections` says why."""
    summary = report.get(Summary)
    operators, layers, blocks = report.get(OperatorTable), report.get(LayerTable), report.get(BlockTable)
    threads, requests = report.get(ThreadTable), report.get(RequestTable)
    losses, overhead = report.get(Losses), report.get(Overhead)
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
        "threads": [asdict(row) for row in threads.rows] if threads else [],
        "coverage": {
            "operators": _coverage(operators.coverage if operators else ()),
            "threads": _coverage(threads.coverage if threads else ()),
        },
        "requests": asdict(requests) if requests else {},
        "losses": _losses(losses),
        "overhead": asdict(overhead) if overhead else {"ratio": None, "ci95": None, "windows": 0},
        "findings": [asdict(finding) for finding in report.findings],
        "findings_withheld": report.findings_withheld,
        "sections": [
            {"name": outcome.name, "status": outcome.status, "reason": outcome.reason} for outcome in report.sections
        ],
        "notes": list(summary.notes) if summary else [],
    }


def _engine(report: Report, summary: Summary | None) -> dict[str, Any]:
    return {
        "names": sorted({module.engine for module in summary.modules}) if summary else [],
        "modules": [asdict(module) for module in summary.modules] if summary else [],
        "models": [asdict(model) for model in summary.models] if summary else [],
        "processes": [asdict(process) for process in summary.processes] if summary else [],
        "rung": report.source.rung,
        "rung_reason": report.source.rung_reason,
    }


def _losses(losses: Losses | None) -> dict[str, Any]:
    if losses is None:
        return {}
    return asdict(losses) | {"by_place": {place: events for place, events, _ in losses.by_place}}


def _coverage(items: tuple[Coverage, ...]) -> list[dict[str, Any]]:
    return [asdict(item) for item in items]


def _finite(value: Any) -> Any:
    """JSON knows no NaN: such a number is not known, null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
