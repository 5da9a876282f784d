"""Several recorded processes: who kept whom from processors, memory bandwidth, a GPU."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.processes import Beside, ProcessTable
from flowprof.viewers.quantity import clean, duration, percent
from flowprof.viewers.terminal.page import Page, inset
from rich.console import Group, RenderableType

ROWS = 6
WHY = 3


def draw(page: Page, report: Report) -> RenderableType | None:
    """None with one process."""
    section = report.get(ProcessTable)
    if section is None:
        return None
    names = dict(section.names)
    table = page.table("process", "beside", "of", "lost", "share", "times as long", names=3)
    for row in section.rows[:ROWS]:
        whom = f"{clean(names.get(row.pid, '?'), 14)} ({row.pid})"
        page.row(table, whom, str(row.by_pid), row.means, duration(row.lost_ns), percent(row.share), slower(row.slower))
    body = [inset(table)] if section.rows else [page.text(" none kept another from a processor")]
    more = len(section.not_told) - WHY
    words = "; ".join(clean(text, 120) for text in section.not_told[:WHY]) + (f"; {more} more" if more > 0 else "")
    return Group(page.title("Processes", "recorded together: what one takes from another"), *body,
                 *([page.text(f" not told: {words}", "dim")] if words else []))  # fmt: skip


def slower(beside: Beside | None) -> str:
    """1.62 (1.55–1.70): how many times as long the same work takes, with its interval."""
    return "–" if beside is None else f"{beside.ratio:.2f} ({beside.low:.2f}–{beside.high:.2f})"
