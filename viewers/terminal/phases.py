"""How fast each phase ran, and what a user sees of it."""

from __future__ import annotations

from flowprof.profiler.sections.summary import Summary
from flowprof.viewers.quantity import count, duration, percent, rate
from flowprof.viewers.terminal.page import Page
from rich.console import Group, RenderableType
from rich.text import Text


def draw(page: Page, summary: Summary) -> RenderableType:
    latency = summary.latency
    line = Text()
    line.append(page.plain(f"{count(summary.tokens)} tokens"), style="bold")
    line.append(page.plain(f" in {count(summary.graphs)} graphs"))
    if latency.ttft_count:
        where = "" if latency.ttft_source == "requests" else " (prefill graphs only)"
        line.append(page.plain(f" · TTFT {duration(latency.ttft_p50_ns)}"), style="bold")
        line.append(page.plain(f" p99 {duration(latency.ttft_p99_ns)}{where}"))
    if latency.tpot_count:
        line.append(page.plain(f" · TPOT {duration(latency.tpot_p50_ns)}"), style="bold")
        line.append(page.plain(f" p99 {duration(latency.tpot_p99_ns)}"))
    table = page.table("phase", "tokens", "graphs", "in graphs", "share", "tokens/s", "graph p50", "p99")
    for phase in summary.phases:
        page.row(table, page.phase(phase.phase), count(phase.tokens), count(phase.graphs),
                 duration(phase.total_ns), percent(phase.share), rate(phase.tokens_per_s),
                 duration(phase.graph_p50_ns), duration(phase.graph_p99_ns))  # fmt: skip
    return Group(line, "", table)
