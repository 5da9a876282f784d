"""Facts on the recording: how it was made, its losses and overhead, and what is said in a line."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.drift import Drift, Slope
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.operators import OperatorTable
from flowprof.profiler.sections.overhead import Overhead
from flowprof.profiler.sections.requests import RequestTable
from flowprof.profiler.sections.summary import Summary
from flowprof.profiler.sections.thread_count import ThreadAdviceTable
from flowprof.profiler.sections.verdicts import VerdictTable
from flowprof.profiler.sections.waits import WaitTable
from flowprof.viewers.quantity import clean, count, duration, percent, slowdown
from flowprof.viewers.terminal.page import Page, inset
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def draw(page: Page, report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    source = report.source
    if source.imported_from:
        table.add_row("imported", page.plain(f"from {clean(source.imported_from, 80)}"))
    if source.rung:
        reason = f" · {clean(source.rung_reason)}" if source.rung_reason else ""
        table.add_row("rung", page.plain(f"{clean(source.rung, 60)}{reason}"))
    losses = report.get(Losses)
    if losses is not None:
        text = "none" if not losses.total else (
            f"{count(losses.total)} events ({percent(losses.share) if losses.share else 'no operators'}): "
            + ", ".join(f"{count(events)} {clean(place, 30)}" for place, events, _ in losses.by_place[:4])
        )  # fmt: skip
        table.add_row("losses", Text(page.plain(text), style="red" if losses.withheld else ""))
    table.add_row("overhead", _overhead(page, report))
    why = _no_verdicts(report) if report.get(OperatorTable) is not None else ""
    if why:
        table.add_row("verdicts", page.plain(clean(why)))
    waits = report.get(WaitTable)
    for note in waits.notes if waits else ():
        table.add_row("waits", Text(page.plain(note), style="red" if waits and waits.withheld else ""))
    drift = report.get(Drift)
    if drift is not None and drift.step is not None:
        table.add_row("context", _drift(page, drift, drift.step))
    advice = report.get(ThreadAdviceTable)
    several = advice is not None and len({one.pid for one in advice.rows}) > 1
    for one in advice.rows[: 4 if several else 2] if advice else ():
        said = one.direction if one.wanted is None else f"{one.direction}: try {one.wanted}"
        where = f" in process {one.pid}" if several else ""
        text = f"{clean(one.phase, 20)}{where} with --threads {one.threads}: {said}; {one.reason}"
        table.add_row("threads", page.plain(text))
    requests = report.get(RequestTable)
    if requests is not None:
        table.add_row("requests", page.plain(
            f"{count(requests.count)}, {count(requests.finished)} finished, at most {requests.most_at_once} at once"
            f" · {duration(requests.dur_p50_ns)} p50, {duration(requests.dur_p99_ns)} p99"
        ))  # fmt: skip
    for outcome in report.sections:
        if outcome.status == "failed":
            table.add_row(outcome.name, Text(page.plain(f"failed: {clean(outcome.reason)}"), style="red"))
    summary = report.get(Summary)
    if summary is not None:
        for note in summary.notes[:3]:
            table.add_row("note", page.plain(clean(note)))
    return Group(page.title("Recording", ""), inset(table))


def _no_verdicts(report: Report) -> str:
    """Why nothing was held against a ceiling; "" where it was."""
    judged = report.get(VerdictTable)
    if judged is not None:
        return "" if judged.ceilings else judged.notes[0] if judged.withheld else f"on waits only: {judged.notes[0]}"
    skipped = (one for one in report.sections if one.name == "verdicts" and one.status == "skipped")
    return next((f"skipped: {one.reason}" for one in skipped), "")


def _overhead(page: Page, report: Report) -> str:
    overhead = report.get(Overhead)
    if overhead is None:
        return page.plain(clean(report.section("overhead").reason))
    text = slowdown(overhead.ratio, overhead.ci95) if overhead.ratio is not None else overhead.reason
    if overhead.ratio is not None and overhead.windows:
        text += f" of decode, {overhead.windows} windows"
    elif overhead.ratio is not None:
        text = overhead.reason
    known = [level for level in overhead.levels if level.ratio is not None]
    for at, level in enumerate(known):
        text += f"{', ' if at else ' · '}{level.level} {((level.ratio or 1) - 1) * 100:+.1f} % in "
        text += percent(level.time_share) + ("" if at else " of it")
    if overhead.displaced:
        text += f" · flowprof's own work up to {percent(overhead.displaced)}"
    if overhead.modelled_ratio is not None:
        text += f" · modelled {(overhead.modelled_ratio - 1) * 100:.2f} % of CPU time"
    return page.plain(text)


def _drift(page: Page, drift: Drift, step: Slope) -> str:
    low, high = (duration(bound) for bound in step.ci95)
    text = f"a decode step grows by {duration(step.ns_per_1000)} per 1 000 tokens (95 %: {low} … {high})"
    if drift.attention_share is not None:
        text += f", {percent(drift.attention_share)} of it attention"
    return page.plain(f"{text} · from {count(drift.points[0].context)} to {count(drift.points[-1].context)}")
