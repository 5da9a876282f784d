"""Several recorded processes: who kept whom from the processors."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.processes import ProcessTable
from flowprof.viewers.quantity import clean, count, duration, percent
from flowprof.viewers.terminal.page import Page, inset
from rich.console import Group, RenderableType

ROWS = 6


def draw(page: Page, report: Report) -> RenderableType | None:
    """None with one process."""
    section = report.get(ProcessTable)
    if section is None:
        return None
    names = dict(section.names)
    table = page.table("process", "waited for", "time", "of asked", "times", "longest", names=2)
    for row in section.rows[:ROWS]:
        whom, by = (f"{clean(names.get(pid, '?'), 16)} ({pid})" for pid in (row.pid, row.by_pid))
        page.row(table, whom, by, duration(row.lost_ns), percent(row.share), count(row.times), duration(row.longest_ns))
    words = "; ".join(clean(text, 120) for text in section.not_seen)
    body = [inset(table)] if section.rows else [page.text(" none kept another from a processor")]
    return Group(page.title("Processes", "recorded together: who had whose processor"), *body,
                 page.text(f" not told: {words}", "dim"))  # fmt: skip
