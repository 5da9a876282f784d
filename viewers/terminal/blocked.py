"""Where threads went to wait."""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.report import Report
from flowprof.profiler.sections.blocked import BlockedRow, BlockedTable, OpenWait
from flowprof.profiler.sections.cuda_host import CudaHost
from flowprof.profiler.sections.summary import Summary
from flowprof.profiler.sections.torch_operators import TorchOperators
from flowprof.viewers.quantity import clean, count, duration, percent
from flowprof.viewers.terminal.page import Page, inset, spaced
from rich.console import Group, RenderableType
from rich.table import Table

ROWS = 5
NARROW = 100  # columns below which two of the figures are left out
LEAST_ROOM = 12  # columns
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
    heads = ["threads", "woken by", "time", "of theirs", "times", "longest"]
    cells = [[_threads(row), _by(row), duration(row.total_ns), percent(row.share), count(row.times),
              duration(row.longest_ns)] for row in rows]  # fmt: skip
    if page.width < NARROW:
        for line in (heads, *cells):
            del line[3:5]
    table = _table(page, ["waited in", *heads], rows, cells, names=3)
    rest = section.total_ns - sum(row.total_ns for row in rows)
    note = f"asleep or blocked, by stack; {duration(rest)} elsewhere" if rest > 0 else "asleep or blocked, by stack"
    return Group(page.title("Where threads waited", note), inset(table))


def _open(page: Page, section: BlockedTable) -> RenderableType | None:
    if not section.open:
        return None
    rows = section.open[:ROWS]
    cells = [[_threads(row), "all along" if row.longest_ns is None else duration(row.longest_ns)] for row in rows]
    table = _table(page, ["waits in", "threads", "for"], rows, cells, names=2)
    return Group(page.title("Where threads wait", "that had not come back when the recording ended"), inset(table))


def _table(
    page: Page, heads: Sequence[str], rows: Sequence[BlockedRow | OpenWait], cells: Sequence[Sequence[str]], names: int
) -> Table:
    """The places have what room the other cells leave."""
    table = page.table(*heads, names=names)
    taken = [max(map(len, column)) + 2 for column in zip(heads[1:], *cells, strict=True)]
    for row, line in zip(rows, cells, strict=True):
        page.row(table, _place(row, max(page.width - 1 - sum(taken), LEAST_ROOM)), *line)
    return table


def _place(row: BlockedRow | OpenWait, room: int) -> str:
    """With its caller where there is room for both; of a frame without a name the file, not its folder."""
    place, caller = (
        name.rsplit("/", 1)[-1] for name in (row.place or (row.stack[0] if row.stack else "?"), row.caller)
    )
    both = f"{clean(place, 80)} ← {clean(caller, 80)}"
    return both if row.place and caller and len(both) <= room else clean(place, room)


def _threads(row: BlockedRow | OpenWait) -> str:
    name = clean(row.comm, 16) or "?"
    return f"{name} ×{row.threads}" if row.threads > 1 else name


def _by(row: BlockedRow) -> str:
    if row.state != "sleeping":
        return {"fault": "page from disk", "disk": "disk, driver", "stopped": "SIGCONT"}.get(row.state, row.state)
    return clean(row.by_comm, 16) or "timer, device"
