"""Compute against barrier wait, per thread and phase, from thread windows.

`threads.imbalance` fires when the threads spend 15 % or more of decode waiting at barriers. Its price is the mean wait
per token over the threads: perfect balance would gain at most that, for the barrier itself is never free.
`threads.oversubscribed` fires when the pool has more threads than the process may use processors: a spinning barrier
then waits for threads that are not running. Remedy: --threads N, no more than the processors.
"""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import GRAPHS, THREADS, Analyzer, Result, coverage, ratio
from flowprof.profiler.findings import Finding
from flowprof.profiler.sections import Coverage, ThreadRow, ThreadTable
from flowprof.profiler.store import Recording, read_sql

WAIT_SHARE = 0.15
POOL_SQL = """
SELECT p.pid, p.cpus_allowed, count(DISTINCT t.ith) FROM process p JOIN thread t USING (pid)
WHERE t.ith IS NOT NULL GROUP BY p.pid, p.cpus_allowed ORDER BY p.pid
"""


def analyze(recording: Recording) -> Result:
    covered = coverage(recording, "thread")
    of = {item.phase: item for item in covered}
    order = {item.phase: position for position, item in enumerate(covered)}
    rows = [
        ThreadRow(
            tid=tid,
            ith=ith,
            comm=comm,
            phase=phase,
            operators=operators,
            compute_ns=int(compute),
            wait_ns=int(wait),
            wait_share=ratio(wait, compute + wait) or 0.0,
            compute_ns_per_token=ratio(compute, of[phase].tokens_measured),
            wait_ns_per_token=ratio(wait, of[phase].tokens_measured),
        )
        for phase, tid, ith, comm, operators, compute, wait in recording.rows(read_sql("threads.sql"))
    ]
    rows.sort(key=lambda row: order[row.phase])
    decode = [row for row in rows if row.phase == "decode"]
    findings = [*_imbalance(decode, of.get("decode")), *_oversubscribed(recording)]
    return Result(ThreadTable(tuple(rows), covered), tuple(findings))


def _imbalance(rows: list[ThreadRow], weight: Coverage | None) -> list[Finding]:
    if len(rows) < 2 or weight is None or not weight.tokens_measured:
        return []
    wait = sum(row.wait_ns for row in rows)
    busy = sum(row.compute_ns for row in rows)
    share = wait / (wait + busy) if wait + busy else 0.0
    if share < WAIT_SHARE:
        return []
    most = max(rows, key=lambda row: row.wait_ns)
    least = min(rows, key=lambda row: row.wait_ns)
    return [
        Finding(
            id="threads.imbalance",
            claim=f"Threads spend {share * 100:.0f} % of decode waiting for each other at barriers",
            phase="decode",
            cost_ns_per_token=wait / len(rows) / weight.tokens_measured,
            confidence="medium",
            evidence=(
                f"{weight.graphs_measured} of {weight.graphs} decode graphs, {len(rows)} threads",
                f"thread {most.ith} waits {most.wait_share * 100:.0f} % of its time, "
                f"thread {least.ith} {least.wait_share * 100:.0f} %",
                "the price is an upper bound: a perfectly balanced barrier still costs something",
            ),
            advice="Look for other load on the processors of the threads that wait least, for slower cores among "
            "them, and for more threads than physical cores; try one thread fewer (--threads).",
            severity="problem",
        )
    ]


def _oversubscribed(recording: Recording) -> list[Finding]:
    return [
        Finding(
            id="threads.oversubscribed",
            claim=f"{threads} threads compute on {processors} processors (process {pid})",
            phase="",
            cost_ns_per_token=None,
            confidence="high",
            evidence=(f"{threads} threads ran operators; the process may run on {processors} processors",),
            advice=f"Start the server with --threads {processors} or fewer, or give it more processors.",
            severity="problem",
        )
        for pid, processors, threads in recording.rows(POOL_SQL)
        if processors and threads > processors
    ]


ANALYZER = Analyzer("threads", "Threads", (GRAPHS, THREADS), analyze)
