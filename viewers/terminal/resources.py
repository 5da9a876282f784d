"""Resources of the application: what each is to blame for, or that all are well."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.resources import Blamed, ResourceTable
from flowprof.viewers.quantity import clean, count, duration, percent
from flowprof.viewers.resources import in_order_of_blame
from flowprof.viewers.terminal.page import Page, inset
from rich.console import Group, RenderableType
from rich.text import Text

ROWS = 6
SERVER = "the server's own, from its requests"


def draw(page: Page, report: Report) -> RenderableType | None:
    section, blamed = report.get(ResourceTable), in_order_of_blame(report)
    verdicts = _verdicts(page, blamed)
    if section is None:
        failed = report.section("resources").status == "failed"
        missing = page.missing(report, "resources") if failed else None
        head = missing or (page.title("Resources", SERVER) if blamed else None)
        return Group(head, *verdicts) if head is not None else None
    note = f"{count(section.events)} events in {duration(section.span_ns)}"
    parts = [page.title("Resources", note), *verdicts]
    if not blamed and section.resources:
        table = page.table("resource", "acquires", "waits", "waiting", "longest", "of the time held")
        for row in section.resources[:ROWS]:
            held = row.hold_ns / max(row.observed_ns, 1)
            page.row(table, clean(row.resource, 24), count(row.acquires), count(row.waits), duration(row.waiting_ns),
                     duration(row.longest_ns), f"{held:.2f}x" if held >= 1 else percent(held))  # fmt: skip
        parts.append(inset(table))
        if not section.withheld:
            parts.append(page.text(" no resource is found wanting", "dim"))
    if section.wakers is not None and section.wakers.bottleneck:
        ends = ", ".join(clean(name, 40) for name in section.wakers.bottleneck[:3])
        ns = duration(section.wakers.bottleneck_ns)
        parts.append(page.text(f" threads' waits for each other end at: {ends} ({ns})", "dim"))
    parts += [page.text(f" {clean(line)}", "yellow") for line in section.notes]
    return Group(*parts)


def _verdicts(page: Page, blamed: list[Blamed]) -> list[RenderableType]:
    """A row each, and the first one's chain."""
    if not blamed:
        return []
    table = page.table("resource", "problem", "holder", "waiting", "holds", "uses/acq", "waiters", names=3)
    for one in blamed[:ROWS]:
        page.row(table, clean(f"{one.resource} {one.instance}".strip(), 24), one.pathology, _holder(one),
                 duration(one.waiting_ns), duration(one.hold_ns),
                 "–" if one.utilisation is None else f"{one.utilisation:.2g}", count(one.sufferers))  # fmt: skip
    chain = _chain(page, blamed[0])
    return [inset(table), *([chain] if chain is not None else [])]


def _holder(one: Blamed) -> str:
    if one.holders > 1:
        return f"{one.holders} in turn"
    return clean(one.holder.name, 24) if one.holder else "not seen"


def _chain(page: Page, one: Blamed) -> Text | None:
    if len(one.chain) < 2:
        return None
    steps = [f"{clean(link.resource, 24)} ({clean(link.holder, 24) or 'no holder seen'})" for link in one.chain]
    return page.text(f" chain: {' → '.join(steps)}", "dim")
