"""What the host asked of its GPUs. What these did with it is not in the calls, and said so."""

from __future__ import annotations

from flowprof.profiler.sections.cuda_host import CudaHost
from flowprof.viewers.cuda import sentence, sheets
from flowprof.viewers.quantity import clean
from flowprof.viewers.terminal.page import WIDE, Page, inset
from rich.console import Group, RenderableType

ROWS = {"streams": 6, "kernels": 8}
OTHER_ROWS = 4


def draw(page: Page, section: CudaHost) -> list[RenderableType]:
    """One line of all calls, then the tables that have rows."""
    told: list[RenderableType] = [page.text(" " + sentence(section), "dim")]
    told += [page.text(f" {clean(note)}", "yellow") for note in section.notes]
    parts: list[RenderableType] = [Group(page.title("CUDA calls", "as the host made them"), *told)]
    for sheet in sheets(section):
        keep = ROWS.get(sheet.id, OTHER_ROWS)
        table = page.table(*sheet.heads, names=sheet.names)
        for row in sheet.rows[:keep]:
            page.row(table, clean(row[0], 24 if page.width < WIDE else 80), *row[1:])
        if len(sheet.rows) > keep:
            page.row(table, f"{len(sheet.rows) - keep} more", *[""] * (len(sheet.heads) - 1), style="dim")
        parts.append(Group(page.title(sheet.title, sheet.note), inset(table)))
    return parts
