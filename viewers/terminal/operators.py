"""Where each phase's time went, by operator."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.operators import OperatorTable
from flowprof.profiler.sections.verdicts import VerdictTable
from flowprof.viewers.quantity import clean, count, duration, percent
from flowprof.viewers.terminal.page import Page, inset
from rich.console import Group, RenderableType
from rich.text import Text

ROWS = {0: 7, 1: 4}  # of the phase with most time, of the next; 3 of the others
UNATTRIBUTED = 0.02  # share of graph time outside operators that is worth a word


def draw(page: Page, report: Report) -> RenderableType | None:
    section = report.get(OperatorTable)
    if section is None:
        return page.missing(report, "operators")
    tables: list[RenderableType] = [page.title("Operators", "wall time on the first thread")]
    unattributed, verdicts = dict(section.unattributed), report.get(VerdictTable)
    told_more = verdicts is not None and bool(verdicts.ceilings)
    for number, item in enumerate(section.coverage):
        rows = [row for row in section.rows if row.phase == item.phase]
        tables.append(_covered(page, item, unattributed.get(item.phase, 0.0)))
        if not rows:
            continue
        keep = ROWS.get(number, 3) - (2 if told_more and number < 2 else 0)
        table = page.table("operator", "block", "share", "", "time", "calls", "p50", "p99", bar=3, names=2)
        for row in rows[:keep]:
            page.row(table, clean(row.op, 24), clean(row.block, 12), percent(row.share), page.bar(row.share),
                     duration(row.total_ns), count(row.calls), duration(row.p50_ns),
                     duration(row.p99_ns))  # fmt: skip
        if len(rows) > keep:
            rest = rows[keep:]
            share = sum(row.share for row in rest)
            page.row(table, f"{len(rest)} more", "", percent(share), page.bar(share),
                     duration(sum(row.total_ns for row in rest)), count(sum(row.calls for row in rest)), "", "",
                     style="dim")  # fmt: skip
        tables.append(inset(table))
    return Group(*tables)


def _covered(page: Page, item: Coverage, outside: float) -> Text:
    text = Text(f" {item.phase}", style="bold cyan")
    if not item.graphs_measured:
        text.append(page.plain(f"  none of {count(item.graphs)} graphs measured: record longer"), style="dim")
    elif item.graphs_measured == item.graphs:
        text.append(page.plain(f"  all {count(item.graphs)} graphs, {count(item.tokens)} tokens"), style="dim")
    else:
        text.append(page.plain(f"  from {count(item.tokens_measured)} of {count(item.tokens)} tokens, "
                               f"scaled to all"), style="dim")  # fmt: skip
    if outside > UNATTRIBUTED:
        text.append(page.plain(f"  {percent(outside)} outside operators"), style="yellow")
    return text
