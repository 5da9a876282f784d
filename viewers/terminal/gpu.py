"""What GPUs did with their time, and what their kernels reach."""

from __future__ import annotations

from flowprof.profiler.sections.gpu import GpuTable
from flowprof.viewers.quantity import SPACE, clean, count, duration, percent, rate
from flowprof.viewers.terminal.page import WIDE, Page, inset
from rich.console import Group, RenderableType
from rich.text import Text

DEVICES = 8
GROUPS = 8


def draw(page: Page, section: GpuTable) -> list[RenderableType]:
    """Devices, then what their kernels reach."""
    times = page.table("device", "busy", "", "idle", "copy", "comm", "timeline", bar=2)
    for one in section.devices[:DEVICES]:
        span = one.span_ns or 1
        page.row(times, str(one.device), percent(one.busy_ns / span),
                 page.bar(one.busy_ns / span), duration(one.idle_ns), duration(one.exposed_copy_ns),
                 duration(one.exposed_comm_ns), duration(one.span_ns))  # fmt: skip
    if len(section.devices) > DEVICES:
        page.row(times, f"{len(section.devices) - DEVICES} more", "", "", "", "", "", "", style="dim")
    launches = f" {count(section.kernels)} kernels"
    if section.graph_kernels:
        launches += f", {count(section.graph_kernels)} of them by {count(section.graph_launches)} graph launch"
        launches += "" if section.graph_launches == 1 else "es"
    launches += f" · no operator known for {percent(section.unattributed_share)} of the work"
    if section.lead_in_slices:
        launches += f"\n left out: {duration(section.lead_in_ns)} of work launched before the recording began"
    table = page.table("operator or kernel", "shape", "bound", "share", "reached", "of max", names=3)
    for row in section.groups[:GROUPS]:
        compute = row.ceiling.startswith("gemm")
        reached = (f"{rate(row.flops_per_s / 1e12)}{SPACE}TF/s" if compute and row.flops_per_s else
                   f"{rate(row.bytes_per_s / 1e9)}{SPACE}GB/s" if row.bytes_per_s else "–")  # fmt: skip
        style = {"inefficient": "yellow", "overhead": "yellow", "unknown": "dim"}.get(row.bound, "")
        page.row(table, clean(row.operator.removeprefix("aten::") or row.kernel, 16 if page.width < WIDE else 60),
                 clean(row.shape.replace(" · ", " "), 15 if page.width < WIDE else 40),
                 Text(page.plain(row.bound), style=style), percent(row.share), reached,
                 "–" if row.ceiling_share is None else f"{row.ceiling_share * 100:.0f}{SPACE}%")  # fmt: skip
    notes = [page.text(f" {clean(note)}", "dim") for note in section.notes]
    title = page.title("GPU", "as its profiler recorded it; copy, comm: while nothing else runs")
    kernels = page.title("GPU work", "what kernels reach of the data sheet's ceilings")
    return [Group(title, inset(times), page.text(launches, "dim")), Group(kernels, inset(table), *notes)]
