"""Which experts tokens used."""

from __future__ import annotations

from flowprof.profiler.report import Report
from flowprof.profiler.sections.experts import ExpertTable
from flowprof.profiler.sections.summary import Summary
from flowprof.viewers.quantity import count, percent
from flowprof.viewers.terminal.page import Page, inset
from rich.console import Group, RenderableType

LAYERS = 3  # the most uneven ones


def draw(page: Page, report: Report) -> RenderableType | None:
    section = report.get(ExpertTable)
    if section is None:
        summary = report.get(Summary)
        routed = summary is not None and any(model.experts for model in summary.models)
        return page.missing(report, "experts") if routed else None
    table = page.table("phase", "tokens", "entropy", "busiest", "distinct", "bytes read", "reuse p50", "p90")
    for row in section.phases:
        page.row(table, page.phase(row.phase), count(row.tokens), percent(row.entropy_share),
                 f"{row.imbalance:.1f}×", "–" if row.distinct is None else f"{row.distinct:.1f}",
                 "–" if row.read_share is None else percent(row.read_share),
                 "–" if row.reuse_p50 is None else f"{row.reuse_p50:.0f}",
                 "–" if row.reuse_p90 is None else f"{row.reuse_p90:.0f}")  # fmt: skip
    phase = section.phases[0].phase
    uneven = sorted((row for row in section.layers if row.phase == phase), key=lambda row: -row.imbalance)
    words = ", ".join(f"layer {row.layer} {row.imbalance:.1f}×" for row in uneven[:LAYERS])
    note = f"entropy of uniform, busiest / mean, distinct per graph and layer (of {uneven[0].experts})"
    lost = [page.text(f" {count(section.lost_ids)} ids were not read", "yellow")] if section.lost_ids else []
    words = f" most uneven in {phase}: {words}"
    return Group(page.title("Experts", note), inset(table), page.text(words, "dim"), *lost)
