"""Performance counters per operator: only where they were asked for."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.operator_counters import OperatorCounterTable
from flowprof.viewers.quantity import clean, rate, size
from flowprof.viewers.terminal.page import Page, inset
from rich.console import Group, RenderableType

OPERATORS = 4


def draw(page: Page, report: Report) -> RenderableType | None:
    section = report.get(OperatorCounterTable)
    if section is None or not section.rows:
        return None
    phase = section.rows[0].phase
    table = page.table("operator", "shape", "ipc", "switches", "faults", "from memory", "weights", names=2)
    for row in [row for row in section.rows if row.phase == phase][:OPERATORS]:
        page.row(table, clean(row.op, 11), clean(row.shape.replace(" · ", " "), 18),
                 "–" if row.ipc is None else f"{row.ipc:.2f}", rate(row.context_switches), rate(row.page_faults),
                 size(row.memory_bytes), size(row.weight_bytes or None))  # fmt: skip
    checks = [f"{clean(check.phase, 16)}: {size(check.memory_bytes)} from memory per graph, "
              f"{size(check.weight_bytes)} of weights by the model: {check.model}"
              for check in section.checks]  # fmt: skip
    words = "; ".join(checks) if checks else f"byte model not checked: {clean(section.unchecked)}"
    absent = ", ".join(clean(name, 30) for name, _ in section.missing[:8])
    last = [page.text(f" not counted: {absent}", "dim")] if absent else []
    whose = "all threads' own work" if section.level == "thread" else "first thread, waits included"
    title = page.title("Counters", f"{clean(phase, 16)}: mean call, {whose}")
    return Group(title, inset(table), page.text(f" {words}", "dim"), *last)
