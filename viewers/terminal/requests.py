"""A server's requests: the phases of those that others delayed most, and objectives."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.requests import RequestRow, RequestTable
from flowprof.profiler.sections.slo import SloTable
from flowprof.viewers.quantity import clean, count, duration
from flowprof.viewers.requests import blame, goodput, judged, kept, slack
from flowprof.viewers.terminal.page import WIDE, Page, inset
from rich.console import Group, RenderableType

ROWS = 6


def draw(page: Page, report: Report) -> RenderableType | None:
    """None where no slot was seen, and nothing was asked for."""
    section, objectives = report.get(RequestTable), report.get(SloTable)
    parts: list[RenderableType] = []
    if section is not None and any(row.tokens is not None for row in section.rows):
        parts += _phases(page, section)
    if objectives is not None:
        parts += _objectives(page, objectives)
    for outcome in report.sections:
        if outcome.name == "slo" and outcome.status != "ok":
            parts.append(page.text(f"Objectives {outcome.status}: {clean(outcome.reason)}", "yellow"))
    return Group(*parts) if parts else None


def _phases(page: Page, section: RequestTable) -> list[RenderableType]:
    rows = sorted(section.rows, key=lambda row: -(row.delayed_ns or 0))[:ROWS]
    wide = page.width >= WIDE
    more = ("slot", "ITL p50") if wide else ()
    table = page.table("task", "queue", "prefill", "decode", "tokens", "ITL p95", *more, "delayed by")
    for row in rows:
        page.row(table, *_cells(row, wide))
    note = f"{section.slots} slots; most delayed first" if not section.delays else f"{section.slots} slots"
    parts: list[RenderableType] = [page.title("Requests", note), inset(table)]
    if section.count > len(rows):
        parts.append(page.text(f" {count(section.count - len(rows))} more", "dim"))
    if section.delays:
        parts.append(page.text(f" who delayed whom is not known: {section.delays}", "dim"))
    for cache in section.kv:
        of = f" of {count(cache.capacity)}" if cache.capacity else ""
        most_idle = max(point.idle for point in cache.points)
        idle = f", up to {count(most_idle)} by slots without a request" if most_idle else ""
        parts.append(page.text(f" KV cache: at most {count(cache.peak_cells)}{of} cells in use{idle}", "dim"))
    return parts


def _cells(row: RequestRow, wide: bool) -> list[str]:
    prompt, tokens = ("–" if value is None else count(value) for value in (row.prompt_tokens, row.tokens))
    task, slot = ("–" if value is None else str(value) for value in (row.task_id, row.slot))
    return [
        task, duration(row.queue_ns), duration(row.prefill_ns), duration(row.decode_ns),
        f"{prompt}+{tokens}", duration(row.itl_p95_ns), *((slot, duration(row.itl_p50_ns)) if wide else ()), blame(row),
    ]  # fmt: skip


def _objectives(page: Page, section: SloTable) -> list[RenderableType]:
    lines: list[RenderableType] = [page.title("Objectives", "attained: all that the tier asks for is known and kept")]
    for tier in section.tiers:
        lines.append(page.text(f" {clean(tier.name, 40)}: attained by {kept(tier)}{goodput(tier)}"))
        for one in tier.objectives:
            lines.append(
                page.text(f"   {one.name} ≤ {duration(one.limit_ns)}: {judged(one)}; slack {slack(one)}", "dim")
            )
    return lines
