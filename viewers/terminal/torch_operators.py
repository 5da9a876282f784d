"""PyTorch's operators: own time, and what bounds them."""

from __future__ import annotations

from collections.abc import Callable

from flowprof.profiler.report import Report
from flowprof.profiler.sections.torch_operators import TorchOperator, TorchOperators, TorchThread
from flowprof.viewers.quantity import SPACE, clean, count, duration, percent, rate
from flowprof.viewers.terminal.page import WIDE, Page, inset
from rich.console import Group, RenderableType
from rich.text import Text

ROWS = 12
Cell = Callable[[TorchOperator], str | Text]
DULL = ("overhead", "wait", "inefficient")


def draw(page: Page, report: Report) -> RenderableType | None:
    section = report.get(TorchOperators)
    if section is None:
        return None  # another engine's recording
    names, figures = _columns(page, section)
    table = page.table(*names, *figures, names=len(names))
    for row in section.rows[:ROWS]:
        page.row(table, *(cell(row) for cell in (*names.values(), *figures.values())))
    if len(section.rows) > ROWS:
        rest = section.rows[ROWS:]
        page.row(table, f"{len(rest)} more", *[""] * (len(names) - 1), percent(sum(row.share for row in rest)),
                 count(sum(row.calls for row in rest)), style="dim")  # fmt: skip
    note = f"{count(section.calls)} calls in {duration(section.observed_ns)} observed; self: without what it calls"
    if section.probe_share is not None:
        note += f"; probes took {percent(section.probe_share)} (hits x cost of a hit)"
    lines = [page.text(f" {_thread(one)}", "dim") for one in section.threads[:4]]
    notes = [page.text(f" {clean(text, 300)}", "yellow") for text in section.notes]
    return Group(page.title("PyTorch operators", note), inset(table), *lines, *notes)


def _columns(page: Page, section: TorchOperators) -> tuple[dict[str, Cell], dict[str, Cell]]:
    """Heads and what stands below them: names, then figures. Bounds where there are ceilings, totals where is room."""
    wide, judged = page.width >= WIDE, bool(section.ceilings)
    names: dict[str, Cell] = {
        "operator": lambda row: clean(row.name.removeprefix("aten::"), 40 if wide else 15),
        "shape": lambda row: clean(row.shape.replace(" · ", " "), 40 if wide else 12),
    }
    figures: dict[str, Cell] = {"self": lambda row: percent(row.share), "calls": lambda row: count(row.calls)}
    if judged:
        names["bound"] = lambda row: _bound(page, row)
    if wide or not judged:  # else there is no room, and numbers are not cut
        figures |= {"total": lambda row: duration(row.total_ns), "p50": lambda row: duration(row.p50_ns)}
    if judged:
        figures |= {"reached": lambda row: _reached(row)[0], "of max": lambda row: _reached(row)[1]}
    return names, figures


def _bound(page: Page, row: TorchOperator) -> Text:
    style = "yellow" if row.bound in DULL else "dim" if row.bound == "unknown" else ""
    return Text(page.plain(row.bound.removeprefix("memory-")), style=style)


def _reached(row: TorchOperator) -> tuple[str, str]:
    """What it reached, and of how much."""
    if row.ceiling_share is None:
        return "–", "–"
    compute = row.ceiling.startswith("gemm")
    speed = row.flops_per_s if compute else row.bytes_per_s
    said = f"{rate(speed / 1e9)}{SPACE}{'GF/s' if compute else 'GB/s'}" if speed else "–"
    return said, f"{row.ceiling_share * 100:.0f}{SPACE}%"


def _thread(one: TorchThread) -> str:
    parts = ((one.backward_ns, "backward passes"), (one.script_ns, "TorchScript"), (one.compiled_ns, "torch.compile"))
    within = "".join(f", {duration(ns)} of it in {what}" for ns, what in parts if ns)
    away = "" if one.away_ns is None else f", {duration(one.away_ns)} of it off the processor"
    role = "" if one.role == "other" else f" ({one.role})"
    name = f"thread {'of no known number' if one.tid is None else one.tid} {clean(one.name, 20)}".rstrip()
    return f"{name}{role}: {count(one.calls)} calls, {duration(one.top_ns)}{within}{away}"
