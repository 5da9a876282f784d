"""Where threads went to wait."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.blocked import BlockedRow, BlockedTable, OpenWait
from flowprof.profiler.sections.cuda_host import CudaHost
from flowprof.profiler.sections.summary import Summary
from flowprof.profiler.sections.torch_operators import TorchOperators
from flowprof.viewers.quantity import clean, count, duration, percent
from flowprof.viewers.terminal.page import Page, inset, spaced
from rich.console import Group, RenderableType

ROWS = 5
LEAST = 0.01  # of the recorded time of the threads: less is not worth a line


def draw(page: Page, report: Report) -> RenderableType | None:
    """None where no stacks were taken. Idle threads, and those that still waited, matter when nothing was computed."""
    section, summary = report.get(BlockedTable), report.get(Summary)
    if section is None:
        return None
    idle = not (summary and summary.phases) and report.get(TorchOperators) is None and report.get(CudaHost) is None
    rows = [row for row in section.rows if (row.computes or idle) and (row.share is None or row.share >= LEAST)][:ROWS]
    parts = [part for part in (_ended(page, section, rows), _open(page, section) if idle else None) if part is not None]
    return Group(*spaced(parts)) if parts else None


def _ended(page: Page, section: BlockedTable, rows: list[BlockedRow]) -> RenderableType | None:
    if not rows:
        return None
    table = page.table("waited in", "threads", "woken by", "time", "of theirs", "times", "longest", names=3)
    for row in rows:
        page.row(table, _place(row), _threads(row), _by(row),
                 duration(row.total_ns), percent(row.share), count(row.times), duration(row.longest_ns))  # fmt: skip
    rest = section.total_ns - sum(row.total_ns for row in rows)
    note = f"asleep or blocked, by stack; {duration(rest)} elsewhere" if rest > 0 else "asleep or blocked, by stack"
    return Group(page.title("Where threads waited", note), inset(table))


def _open(page: Page, section: BlockedTable) -> RenderableType | None:
    if not section.open:
        return None
    table = page.table("waits in", "threads", "for", names=2)
    for row in section.open[:ROWS]:
        so_far = "all along" if row.longest_ns is None else duration(row.longest_ns)
        page.row(table, _place(row), _threads(row), so_far)
    return Group(page.title("Where threads wait", "that had not come back when the recording ended"), inset(table))


def _place(row: BlockedRow | OpenWait) -> str:
    if not row.place:
        return clean(row.stack[0] if row.stack else "?", 60)
    return f"{clean(row.place, 40)} ← {clean(row.caller, 40)}" if row.caller else clean(row.place, 60)


def _threads(row: BlockedRow | OpenWait) -> str:
    name = clean(row.comm, 16) or "?"
    return f"{name} ×{row.threads}" if row.threads > 1 else name


def _by(row: BlockedRow) -> str:
    if row.state != "sleeping":
        return {"fault": "page from disk", "disk": "disk, driver", "stopped": "SIGCONT"}.get(row.state, row.state)
    return clean(row.by_comm, 16) or "timer, device"
