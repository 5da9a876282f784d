"""Compute against barrier wait, per thread and phase, from thread windows.

* `threads.imbalance`: one thread has so much more work than the mean that the others wait for it for 15 % of decode or
  more. Its price is that difference per token: what a perfect balance would gain. Work is time on a processor, where
  the scheduler was recorded: a thread that was kept from running is a matter of `waits`. What all threads wait alike is
  the barriers' own cost, and no imbalance: healthy servers with 2 threads on 2 processors spend 8 % (150 M parameters)
  to 22 % (20 M) of decode at barriers, and differ in work by 1 to 3 %. Look for slower cores (efficiency cores, a busy
  sibling, interrupts) and keep the pool off them, or try one thread fewer.
* `threads.oversubscribed`: the pool has more threads than the process may use processors: they take turns, and barriers
  wait for threads that are not running. Its price is what graphs lost while a thread waited for a processor on which
  another of the server's ran; unknown without the scheduler. Start the server with --threads N, no more than the
  processors, or give it more.
"""

from __future__ import annotations

from flowprof.profiler.analyzers.absence import CrowdedPool, crowded_pools, losses, of_processors, splits, total
from flowprof.profiler.analyzers.contract import GRAPHS, SCHED, THREADS, Analyzer, Result, coverage, ratio
from flowprof.profiler.findings import Finding
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.threads import ThreadRow, ThreadTable
from flowprof.profiler.store import Recording, read_sql

WAIT_SHARE = 0.15


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
    crowded = crowded_pools(recording)
    findings = _oversubscribed(recording, crowded) if crowded else _imbalance(recording, decode, of.get("decode"))
    return Result(ThreadTable(tuple(rows), covered), tuple(findings))


def _imbalance(recording: Recording, rows: list[ThreadRow], weight: Coverage | None) -> list[Finding]:
    wall = max((row.compute_ns + row.wait_ns for row in rows), default=0)
    if len(rows) < 2 or weight is None or not weight.tokens_measured or not wall:
        return []
    on_processor = {}
    if SCHED.met(recording):
        on_processor = {row.tid: row.work_ns for row, _ in splits(recording) if row.phase == "decode"}
    work = {row.ith: on_processor.get(row.tid, row.compute_ns) for row in rows}
    excess = float(max(work.values()) - sum(work.values()) / len(work))
    share = excess / wall
    if share < WAIT_SHARE:
        return []
    most, least = max(work, key=lambda ith: work[ith]), min(work, key=lambda ith: work[ith])
    return [
        Finding(
            id="threads.imbalance",
            claim=f"The other threads wait for thread {most}, which has more work: {share * 100:.0f} % of decode",
            phase="decode",
            cost_ns_per_token=excess / weight.tokens_measured,
            confidence="medium",
            evidence=(
                f"{weight.graphs_measured} of {weight.graphs} decode graphs, {len(rows)} threads",
                f"thread {most} works {work[most] / wall * 100:.0f} % of the time, "
                f"thread {least} {work[least] / wall * 100:.0f} %",
                "the price is an upper bound: a perfectly balanced barrier still costs something",
            ),
            advice="Look for slower cores or other load on the processor of that thread; try one thread fewer "
            "(--threads).",
            severity="problem",
        )
    ]


def _oversubscribed(recording: Recording, pools: list[CrowdedPool]) -> list[Finding]:
    """One finding per process; its price is that of the phase that lost most."""
    lost = [loss for loss in losses(recording) if loss.state == "runnable" and loss.siblings]
    worst = max(lost, key=lambda loss: loss.lost_ns, default=None)
    whole = {item.phase: item for item in coverage(recording, "token", "op", "thread")}
    weight = whole.get(worst.phase) if worst else None
    cost: float | None = None
    price: tuple[str, ...] = ()
    if worst is not None and weight is not None and weight.tokens and weight.total_ns:
        part = total(worst.siblings) / total(worst.causes)
        cost = worst.lost_ns * part / weight.tokens
        price = (
            f"{worst.lost_ns * part / weight.total_ns * 100:.0f} % of {worst.phase} is lost while a thread waits for "
            f"a processor on which another of the server's runs",
        )
    return [
        Finding(
            id="threads.oversubscribed",
            claim=f"{pool.threads} threads compute on {of_processors(pool.processors)} (process {pool.pid})",
            phase=worst.phase if worst and cost is not None else "",
            cost_ns_per_token=cost,
            confidence="high",
            evidence=(
                f"{pool.threads} threads ran operators; the process may run on {of_processors(pool.processors)}",
                *price,
            ),
            advice=f"Start the server with --threads {pool.processors} or fewer, or give it more processors.",
            severity="problem",
        )
        for pool in pools
    ]


ANALYZER = Analyzer("threads", "Threads", (GRAPHS, THREADS), analyze)
