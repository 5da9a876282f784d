"""The slowest layers of the phase with most time, and all others in a row."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.groups import LayerTable
from flowprof.viewers.quantity import duration, percent
from flowprof.viewers.terminal.page import Page, inset
from rich.console import Group, RenderableType

LAYERS = 4


def draw(page: Page, report: Report) -> RenderableType | None:
    section = report.get(LayerTable)
    if section is None or not section.rows:
        return None
    phase = section.rows[0].phase
    rows = sorted((row for row in section.rows if row.phase == phase), key=lambda row: -row.total_ns)
    inside = [row for row in rows if row.group.isdigit()]
    table = page.table("layer", "share", "", "time", "p50", "p99", bar=2)
    for row in inside[:LAYERS]:
        page.row(table, row.group, percent(row.share), page.bar(row.share), duration(row.total_ns),
                 duration(row.p50_ns), duration(row.p99_ns))  # fmt: skip
    rest = inside[LAYERS:]
    if rest:
        low, high = min(row.p50_ns for row in rest), max(row.p50_ns for row in rest)
        share = sum(row.share for row in rest)
        page.row(table, f"{len(rest)} more", percent(share), page.bar(share),
                 duration(sum(row.total_ns for row in rest)), f"{duration(low)} –", duration(high),
                 style="dim")  # fmt: skip
    for row in rows:
        if not row.group.isdigit():
            page.row(table, "outside", percent(row.share), page.bar(row.share), duration(row.total_ns),
                     duration(row.p50_ns), duration(row.p99_ns), style="dim")  # fmt: skip
    return Group(page.title("Layers", f"{phase}, slowest first, per graph"), inset(table))
