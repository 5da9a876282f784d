"""Pool threads: the parts of their wall time where the scheduler was recorded, else compute and barrier wait."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.threads import ThreadTable
from flowprof.profiler.sections.waits import WaitTable
from flowprof.viewers import causes, pools
from flowprof.viewers.quantity import count, duration, percent
from flowprof.viewers.terminal.page import Page, inset
from rich.console import Group, RenderableType
from rich.text import Text

THREADS = 8
LEAST_ROOT = 0.02  # of the threads' wall time: less is not worth a line


def draw(page: Page, report: Report) -> RenderableType | None:
    waits = report.get(WaitTable)
    if waits is not None and waits.rows:
        return _waits(page, waits)
    section = report.get(ThreadTable)
    if section is None:
        return page.missing(report, "threads")
    phase = section.rows[0].phase
    rows = [row for row in section.rows if row.phase == phase]
    item = next(item for item in section.coverage if item.phase == phase)
    called = dict(zip(rows, pools.names(rows), strict=True))
    table = page.table("thread", "tid", "wait", "", "compute/token", "wait/token", bar=3)
    chosen = rows if len(rows) <= THREADS else sorted(rows, key=lambda row: -row.wait_share)[:THREADS]
    for row in chosen:
        page.row(table, called[row], str(row.tid), percent(row.wait_share), page.bar(row.wait_share),
                 duration(row.compute_ns_per_token), duration(row.wait_ns_per_token))  # fmt: skip
    if len(rows) > len(chosen):
        page.row(table, f"{len(rows) - len(chosen)} more", "", "", "", "", "", style="dim")
    note = f"{phase}: barrier wait, {count(item.graphs_measured)} of {count(item.graphs)} graphs"
    return Group(page.title("Threads", note), inset(table))


def _waits(page: Page, section: WaitTable) -> RenderableType:
    """Every pool thread's wall time, in parts that add up to it."""
    phase = section.rows[0].phase
    rows = [row for row in section.rows if row.phase == phase]
    called = dict(zip(rows, pools.names(rows), strict=True))
    table = page.table("thread", "work", "", "barrier", "no cpu", "blocked", "disk", bar=3)
    chosen = rows if len(rows) <= THREADS else sorted(rows, key=lambda row: row.work_ns)[:THREADS]
    for row in chosen:
        parts = [ns / row.wall_ns if row.wall_ns else 0.0 for ns in
                 (row.work_ns, row.barrier_ns, row.runnable_ns, row.blocked_ns, row.fault_ns)]  # fmt: skip
        page.row(table, called[row], percent(parts[0]), page.bar(parts[0]), *map(percent, parts[1:]))
    if len(rows) > len(chosen):
        page.row(table, f"{len(rows) - len(chosen)} more", "", "", "", "", "", "", style="dim")
    item = next(item for item in section.coverage if item.phase == phase)
    note = f"{phase}: of their wall time, {count(item.graphs_measured)} of {count(item.graphs)} graphs"
    return Group(page.title("Threads", note), inset(table), *_roots(page, section, phase))


def _roots(page: Page, section: WaitTable, phase: str) -> list[Text]:
    """What the waits of at least LEAST_ROOT of the threads' wall time were for in the end."""
    wall = sum(row.wall_ns for row in section.rows if row.phase == phase)
    ns = {wait: total for of, wait, total in section.roots_ns if of == phase}.get("barrier", 0)
    if ns < LEAST_ROOT * wall:
        return []
    roots = [root for root in section.roots if (root.phase, root.wait) == (phase, "barrier")]
    said = "; ".join(f"{text}: {percent(part / ns)}" for text, part in causes.largest(roots)[:3])
    return [page.text(f" long barrier waits ({duration(ns)}) were for: {said}", "dim")]
