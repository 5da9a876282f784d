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

Both are of one process, and prices are per token of its own.
"""

from __future__ import annotations

from collections import Counter

from flowprof.profiler.analyzers.absence import (
    CrowdedPool,
    by_thread,
    computing,
    crowded_pools,
    in_process,
    losses,
    of_processors,
    splits,
    total,
)
from flowprof.profiler.analyzers.contract import GRAPHS, SCHED, THREADS, Analyzer, Result, coverage, ratio
from flowprof.profiler.findings import Finding
from flowprof.profiler.sections.coverage import Coverage
from flowprof.profiler.sections.threads import ThreadRow, ThreadTable
from flowprof.profiler.store import Recording

WAIT_SHARE = 0.15
NAMES_SQL = "SELECT tid, any_value(comm) FROM thread WHERE comm IS NOT NULL GROUP BY tid"


def analyze(recording: Recording) -> Result:
    covered, pids = coverage(recording, "thread"), computing(recording)
    of = {pid: {item.phase: item for item in coverage(recording, "thread", pid=pid)} for pid in pids}
    order = {item.phase: position for position, item in enumerate(covered)}
    names = dict(recording.rows(NAMES_SQL))
    rows = []
    for place, sums in by_thread(recording).items():
        compute, wait, operators = sums["barrier_compute_ns"], sums["barrier_wait_ns"], sums["barrier_calls"]
        tokens = of[place.pid][place.phase].tokens_measured
        if operators:
            rows.append(
                ThreadRow(
                    **place._asdict(),
                    comm=names.get(place.tid, ""),
                    operators=operators,
                    compute_ns=compute,
                    wait_ns=wait,
                    wait_share=ratio(wait, compute + wait) or 0.0,
                    compute_ns_per_token=ratio(compute, tokens),
                    wait_ns_per_token=ratio(wait, tokens),
                )
            )
    rows.sort(key=lambda row: order[row.phase])
    crowded = crowded_pools(recording)
    findings = _oversubscribed(recording, crowded)
    for pid, driver in dict.fromkeys((row.pid, row.driver_tid) for row in rows):
        if pid not in {pool.pid for pool in crowded}:
            decode = [row for row in rows if (row.phase, row.pid, row.driver_tid) == ("decode", pid, driver)]
            findings += _imbalance(recording, decode, of[pid].get("decode"), in_process(pid, pids))
    return Result(ThreadTable(tuple(rows), covered), tuple(findings))


def _imbalance(recording: Recording, rows: list[ThreadRow], weight: Coverage | None, where: str) -> list[Finding]:
    """Of one pool. where: its process, if there are several."""
    on_processor = {}
    if SCHED.met(recording):
        on_processor = {(row.phase, row.driver_tid, row.tid): row.work_ns for row in splits(recording)}
    work, walls = Counter[int](), Counter[int]()
    for row in rows:  # a place in the pool may see one thread after another
        work[row.ith] += on_processor.get((row.phase, row.driver_tid, row.tid), row.compute_ns)
        walls[row.ith] += row.compute_ns + row.wait_ns
    wall = max(walls.values(), default=0)
    if len(work) < 2 or weight is None or not weight.tokens_measured or not wall:
        return []
    excess = float(max(work.values()) - sum(work.values()) / len(work))
    share = excess / wall
    if share < WAIT_SHARE:
        return []
    most, least = max(work, key=lambda ith: work[ith]), min(work, key=lambda ith: work[ith])
    return [
        Finding(
            id="threads.imbalance",
            claim=f"The other threads wait for thread {most}, which has more work: {share * 100:.0f} % of "
            f"decode{where}",
            phase="decode",
            cost_ns_per_token=excess / weight.tokens_measured,
            confidence="medium",
            evidence=(
                f"{weight.graphs_measured} of {weight.graphs} decode graphs, {len(work)} threads",
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
    found = []
    for pool in pools:
        cost, phase, price = _price(recording, pool.pid)
        found.append(
            Finding(
                id="threads.oversubscribed",
                claim=f"{pool.threads} threads compute on {of_processors(pool.processors)} (process {pool.pid})",
                phase=phase,
                cost_ns_per_token=cost,
                confidence="high",
                evidence=(
                    f"{pool.threads} threads ran operators; the process may run on {of_processors(pool.processors)}",
                    *price,
                ),
                advice=f"Start the server with --threads {pool.processors} or fewer, or give it more processors.",
                severity="problem",
            )
        )
    return found


def _price(recording: Recording, pid: int) -> tuple[float | None, str, tuple[str, ...]]:
    """ns per token, the phase, and a line of evidence."""
    lost = [loss for loss in losses(recording) if (loss.pid, loss.state) == (pid, "runnable") and loss.siblings]
    worst = max(lost, key=lambda loss: loss.lost_ns, default=None)
    if worst is None:
        return None, "", ()
    whole = {item.phase: item for item in coverage(recording, "token", "op", "thread", pid=pid)}
    weight = whole.get(worst.phase)
    if weight is None or not weight.tokens or not weight.total_ns:
        return None, "", ()
    ns = worst.lost_ns * total(worst.siblings) / total(worst.causes)
    words = (
        f"{ns / weight.total_ns * 100:.0f} % of {worst.phase} is lost while a thread waits for a processor on which "
        "another of the server's runs"
    )
    return ns / weight.tokens, worst.phase, (words,)


ANALYZER = Analyzer("threads", "Threads", (GRAPHS, THREADS), analyze)
