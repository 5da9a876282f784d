"""Where the time went by block, in the first two phases side by side."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.groups import BlockTable
from flowprof.viewers.quantity import clean, duration, percent
from flowprof.viewers.terminal.page import WIDE, Cell, Page, inset
from rich.console import Group, RenderableType

BLOCKS = 8


def draw(page: Page, report: Report) -> RenderableType | None:
    section = report.get(BlockTable)
    if section is None or not section.rows:
        return None
    phases = list(dict.fromkeys(row.phase for row in section.rows))[:2]
    wide = page.width >= WIDE  # beside the operators: no room for p99
    heads = [head for phase in phases for head in (phase, "", "p50", *(() if wide else ("p99",)))]
    table = page.table("block", *heads, bar=2)
    found = {(row.group, row.phase): row for row in section.rows}
    for block in list(dict.fromkeys(row.group for row in section.rows))[:BLOCKS]:
        cells: list[Cell] = []
        for phase in phases:
            row = found.get((block, phase))
            if row is None:
                cells += [""] * (3 if wide else 4)
                continue
            bar = page.bar(row.share) if phase == phases[0] else ""
            cells += [percent(row.share), bar, duration(row.p50_ns)]
            if not wide:
                cells.append(duration(row.p99_ns))
        page.row(table, clean(block, 12), *cells)
    return Group(page.title("Blocks", "share of the phase, time per graph"), inset(table))
