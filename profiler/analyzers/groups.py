"""What layers and blocks share: the time of a group per graph execution, scaled to the whole recording by phase."""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import coverage, ratio
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.groups import GroupRow
from flowprof.profiler.store import Recording, read_sql


def group_rows(recording: Recording, sql: str, nothing: str) -> tuple[tuple[GroupRow, ...], tuple[Coverage, ...]]:
    """Rows of a query (phase, group, ns, p50_ns, p99_ns) by phase; `nothing` names the group that is NULL."""
    covered = coverage(recording, "op", "thread")
    of = {item.phase: item for item in covered}
    order = {item.phase: position for position, item in enumerate(covered)}
    rows = [
        GroupRow(
            group=nothing if group is None else str(group),
            phase=phase,
            total_ns=round(int(ns) * of[phase].time_weight),
            share=ratio(ns, of[phase].measured_ns) or 0.0,
            p50_ns=float(p50),
            p99_ns=float(p99),
            ns_per_token=ratio(ns, of[phase].tokens_measured),
        )
        for phase, group, ns, p50, p99 in recording.rows(read_sql(sql))
    ]
    rows.sort(key=lambda row: order[row.phase])  # stable: the query's order within a phase
    return tuple(rows), covered
