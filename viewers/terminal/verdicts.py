"""What bounds the largest operators of the two phases with most time."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.verdicts import VerdictTable
from flowprof.viewers.quantity import SPACE, clean, duration, percent, rate
from flowprof.viewers.terminal.page import WIDE, Page, inset
from rich.console import Group, RenderableType
from rich.text import Text

ROWS = {0: 4, 1: 2}  # of the phase with most time, of the next
_BOUNDS = {"compute": "compute", "memory-dram": "DRAM", "memory-cache": "cache", "overhead": "overhead",
           "wait": "wait", "inefficient": "inefficient", "unknown": "unknown"}  # fmt: skip
_LIMITS = {"compute": "arithmetic", "memory-dram": "memory", "memory-cache": "the cache", "unknown": "cache or memory"}


def draw(page: Page, report: Report) -> RenderableType | None:
    section = report.get(VerdictTable)
    if section is None or not section.ceilings:
        return None  # why: among the facts on the recording
    sources = dict.fromkeys(one.source.split(", ")[0] for one in section.ceilings)  # with what: --json, --html
    title = page.title("What bounds each operator", f"by ceilings {clean(', '.join(filter(None, sources)), 32)}")
    lines: list[RenderableType] = [title]
    if section.withheld:
        return Group(*lines, page.text(f" {clean(section.notes[0])}", "yellow"))
    bounds = {phase.phase: phase for phase in section.phases}
    for number, item in enumerate(section.coverage):
        rows = [row for row in section.rows if row.phase == item.phase]
        if not rows or number not in ROWS:
            continue
        phase, text = bounds.get(item.phase), Text(f" {item.phase}", style="bold cyan")
        if phase is not None:
            limit = _LIMITS[phase.limit]
            text.append(page.plain(f"  {rate(phase.tokens_per_s)} tokens/s: {percent(phase.fraction)} of what "
                                   f"{limit} allows ({rate(phase.bound_tokens_per_s)})"), style="dim")  # fmt: skip
        table = page.table("operator", "shape", "bound", "share", "reached", "of max", "gain", names=3)
        for row in rows[: ROWS[number]]:
            style = {"wait": "yellow", "inefficient": "yellow", "unknown": "dim"}.get(row.bound, "")
            sure = "?" if row.confidence == "low" and row.bound != "unknown" else ""
            gemm = row.ceiling.startswith("gemm")
            reached = f"{rate(row.gflops)}{SPACE}GOP/s" if gemm else f"{rate(row.gbps)}{SPACE}GB/s"
            shape = clean(row.shape.replace(" · ", " "), 18 if page.width < WIDE else 26)
            page.row(table, clean(row.op, 11), shape,
                     Text(page.plain(_BOUNDS[row.bound] + sure), style=style), f"{row.share * 100:.0f}{SPACE}%",
                     reached,
                     "–" if row.ceiling_share is None else f"{row.ceiling_share * 100:.0f}{SPACE}%",
                     duration(row.headroom_ns_per_token))  # fmt: skip
        lines += [text, inset(table)]
    return Group(*lines)
