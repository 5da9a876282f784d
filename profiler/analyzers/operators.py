"""Time by operator: calls, total, share, median and 99th percentile by op × block × phase.

Measured on the graph executions wholly inside op or thread windows: wall time on the first thread, from the operator's
start to the start of the next one (barrier included, for no thread goes on before it). Scaled to the whole recording
phase by phase: times by (time of all graphs / time of the measured ones), calls by the same ratio of graph counts.
Shares are of the phase's time inside graphs.

* `operators.largest`: one group takes 30 % or more of decode. Look there first; were its calls free, decode would be as
  much faster as the finding says, and no more.
"""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import GRAPHS, OPERATORS, Analyzer, Result, coverage, ratio
from flowprof.profiler.findings import Finding
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.operators import OperatorRow, OperatorTable
from flowprof.profiler.store import Recording, read_sql

LARGE_SHARE = 0.30
ENOUGH_GRAPHS = 30  # measured graph executions from which a share is stated with high confidence


def analyze(recording: Recording) -> Result:
    covered = coverage(recording, "op", "thread")
    of = {item.phase: item for item in covered}
    rows = []
    for phase, op, block, calls, ns, p50, p99, tensor, tensor_ns in recording.rows(read_sql("operators.sql")):
        weight = of[phase]
        total = round(int(ns) * weight.time_weight)
        rows.append(
            OperatorRow(
                op=op or "",
                block=block or "",
                phase=phase,
                calls=round(calls * weight.count_weight),
                total_ns=total,
                share=ratio(ns, weight.measured_ns) or 0.0,
                p50_ns=float(p50),
                p99_ns=float(p99),
                measured_calls=calls,
                measured_ns=int(ns),
                ns_per_token=ratio(ns, weight.tokens_measured),
                top_tensor=tensor or "",
                top_tensor_ns=float(tensor_ns),
            )
        )
    order = {item.phase: position for position, item in enumerate(covered)}
    rows.sort(key=lambda row: (order[row.phase], -row.total_ns, row.op, row.block))
    known = {phase: sum(row.share for row in rows if row.phase == phase) for phase in of}
    unattributed = tuple((item.phase, 1.0 - known[item.phase]) for item in covered if item.graphs_measured)
    return Result(OperatorTable(tuple(rows), covered, unattributed), _largest(rows, of))


def _largest(rows: list[OperatorRow], of: dict[str, Coverage]) -> tuple[Finding, ...]:
    decode = [row for row in rows if row.phase == "decode"]
    if not decode or decode[0].share < LARGE_SHARE:
        return ()
    top, weight = decode[0], of["decode"]
    ceiling = 1 / (1 - top.share) if top.share < 1 else float("inf")
    return (
        Finding(
            id="operators.largest",
            claim=f"{top.op} in {top.block or 'other'} takes {top.share * 100:.0f} % of the time inside decode graphs",
            phase="decode",
            cost_ns_per_token=top.ns_per_token,
            confidence="high" if weight.graphs_measured >= ENOUGH_GRAPHS else "medium",
            evidence=(
                f"{top.measured_calls} calls in {weight.graphs_measured} of {weight.graphs} decode graphs",
                f"median call {_time(top.p50_ns)}, 99th percentile {_time(top.p99_ns)}",
                f"slowest tensor {top.top_tensor}: {_time(top.top_tensor_ns)} a call",
            ),
            advice=f"Look here first. Were these calls free, decode would be {ceiling:.2f}x as fast, no more.",
        ),
    )


def _time(ns: float) -> str:
    return f"{ns / 1e6:.1f} ms" if ns >= 1e6 else f"{ns / 1e3:.1f} µs"


ANALYZER = Analyzer("operators", "Operators", (GRAPHS, OPERATORS), analyze)
