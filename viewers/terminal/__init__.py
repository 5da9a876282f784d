"""The report on one screen of a terminal: rich tables without boxes, good from 80 columns on, plain when piped.

Colours follow the terminal and NO_COLOR (rich's rules). On a terminal that cannot show UTF-8 every sign has an ASCII
stand-in. Names from the target are cleaned before they are shown. A file here draws one part of the screen; page.py is
what parts are made of.
"""

from __future__ import annotations

from typing import TextIO

from flowprof.profiler.report import Report
from flowprof.profiler.sections.cuda_host import CudaHost
from flowprof.profiler.sections.gpu import GpuTable
from flowprof.profiler.sections.overlap import OverlapTable
from flowprof.profiler.sections.resources import ResourceTable
from flowprof.profiler.sections.summary import Summary
from flowprof.profiler.sections.torch_operators import TorchOperators
from flowprof.viewers import missed
from flowprof.viewers.quantity import clean
from flowprof.viewers.terminal import (
    blocked,
    blocks,
    counters,
    cuda,
    experts,
    findings,
    gpu,
    head,
    layers,
    operators,
    phases,
    processes,
    recording,
    requests,
    resources,
    threads,
    torch_operators,
    verdicts,
)
from flowprof.viewers.terminal.page import WIDE, Page, spaced
from rich.console import Console, Group, RenderableType
from rich.table import Table

MAX_COLUMNS = 160
LEFT = (operators.draw, verdicts.draw)  # what stands side by side on a wide terminal, else one below the other
RIGHT = (blocks.draw, layers.draw, threads.draw, counters.draw, experts.draw)


def show(report: Report, out: TextIO, width: int | None = None) -> None:
    """Write the report to `out`; `width` columns, or the terminal's (80 when piped)."""
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    if width is None and console.width > MAX_COLUMNS:
        console.width = MAX_COLUMNS
    page = Page(console.width, ascii_only=not console.encoding.lower().startswith("utf"))
    for part in _parts(page, report):
        console.print(part)


def _parts(page: Page, report: Report) -> list[RenderableType]:
    parts: list[RenderableType] = [head.draw(page, report), ""]
    summary = report.get(Summary)
    operators_called, cuda_calls = report.get(TorchOperators), report.get(CudaHost)
    other = operators_called is not None or cuda_calls is not None or report.get(ResourceTable) is not None
    if summary is not None and summary.phases:
        parts += [phases.draw(page, summary), ""]
    elif not report.source.imported_from and summary is not None and not other:
        parts += [page.text("No graph was executed while this was recorded (begin to end): no tokens, no operators.\n"
                            "Record again while it generates, for longer than one takes.", "yellow"), ""]  # fmt: skip
    found = tuple(finding for finding in report.findings if finding.id != "verdicts.bound")  # said below
    if found:
        parts += [findings.draw(page, found), ""]
    devices = report.get(GpuTable)
    if devices is not None:
        parts += [*spaced(gpu.draw(page, devices)), ""]
        parts += _overlap(page, report)
    elif report.source.imported_from:
        parts += [page.text(clean(report.section("gpu").reason), "yellow"), ""]
    if cuda_calls is not None:
        parts += [*spaced(cuda.draw(page, cuda_calls)), ""]
    handed_out = resources.draw(page, report)
    if handed_out is not None:
        parts += [handed_out, ""]
    calls = torch_operators.draw(page, report)
    if calls is not None:
        parts += [calls, ""]
    if devices is None and other:
        parts += _overlap(page, report)
    left, right = ([part for draw in side if (part := draw(page, report)) is not None] for side in (LEFT, RIGHT))
    if page.width >= WIDE and left and right:
        sides = Table.grid(padding=(0, 3), expand=False)
        sides.add_row(Group(*spaced(left)), Group(*spaced(right)))
        parts += [sides, ""]
    else:
        parts += spaced([*left, *right])
        if left or right:
            parts.append("")
    for part in (blocked.draw(page, report), requests.draw(page, report), processes.draw(page, report)):
        if part is not None:
            parts += [part, ""]
    parts.append(recording.draw(page, report))
    return parts


def _overlap(page: Page, report: Report) -> list[RenderableType]:
    """Where there are figures on resources or calls; of ggml's graphs the findings say it all."""
    overlap = report.get(OverlapTable)
    if overlap is None or not (overlap.devices or overlap.calls):
        return []
    return [Group(*missed.parts(overlap, page.width, page.plain)), ""]
