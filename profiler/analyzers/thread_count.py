"""Would more threads help, or fewer? From the time split of the threads, the bound of the phase and the ceilings.

Per phase and process (the bound is that of the phase, of all processes):

* more threads than processors: fewer. A spinning barrier waits for threads that have no processor.
* threads that lack a processor for 10 % of their time: not more; others take them (see Waits).
* bound by memory or compute: the ceiling of that kind at other numbers of threads says what to expect at most.
  Bandwidth is often used up by a few threads, arithmetic rarely.
* waiting at barriers for a quarter of the time or more: not more, the work is not divided well as it is.
* else nothing can be said.

Findings are upper bounds from ceilings, never measured gains: what settles it is a recording at the other number, and
`settle` says so. Prefill and decode may disagree: llama.cpp has --threads for decode and --threads-batch for prefill.

* `thread_count.more`: the phase's ceiling is higher with more threads. Restart with that number, record, and compare.
* `thread_count.fewer`: as much can be had with fewer threads, or there are more than processors. Restart with that
  number, record, and compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowprof.profiler.analyzers import verdicts
from flowprof.profiler.analyzers.absence import computing, in_process, of_processors, splits
from flowprof.profiler.analyzers.contract import GRAPHS, OPERATORS, SCHED, THREADS, Analyzer, Result, recorded_ceilings
from flowprof.profiler.findings import Finding
from flowprof.profiler.machine.ceilings import Ceilings, What
from flowprof.profiler.sections.bound import Bound
from flowprof.profiler.sections.thread_count import ThreadAdvice, ThreadAdviceTable
from flowprof.profiler.sections.verdicts import Verdict
from flowprof.profiler.sections.waits import WaitRow
from flowprof.profiler.store import Recording

CROWDED = 0.10  # of the time without a processor
UNEVEN = 0.25  # of the time at barriers
WORTH = 1.05  # a ceiling that is higher by less is the same ceiling
FLAGS = {"prefill": "--threads-batch", "decode": "--threads"}
_GEMM = "gemm "  # so the ceilings of products are called, with their type
PROCESSORS_SQL = "SELECT pid, max(cpus_allowed) FROM process WHERE cpus_allowed IS NOT NULL GROUP BY pid"


@dataclass(frozen=True, slots=True)
class Split:
    """How one phase's threads of one process spent their time, on average."""

    threads: int
    processors: int
    work: float  # shares of the wall time
    barrier: float
    runnable: float


def analyze(recording: Recording) -> Result:
    rows, pids = splits(recording), computing(recording)
    judged = verdicts.ANALYZER.run(recording).value  # None without ceilings: then only the time split speaks
    bounds: dict[str, tuple[Bound, float, str]] = (
        {
            item.phase: (item.limit, 1e9 / item.tokens_per_s, _dtype(item.phase, judged.rows))
            for item in judged.phases
            if item.tokens_per_s
        }
        if judged is not None
        else {}
    )
    processors = dict(recording.rows(PROCESSORS_SQL))
    ceilings = recorded_ceilings(recording)
    advice, findings = [], []
    for phase, pid in dict.fromkeys((row.phase, row.pid) for row in rows):
        split = _split([row for row in rows if (row.phase, row.pid) == (phase, pid)], processors.get(pid, 0))
        limit, ns_per_token, dtype = bounds.get(phase, ("unknown", 0.0, ""))
        one = advise(phase, split, limit, ceilings, dtype, pid)
        advice.append(one)
        findings += _finding(one, ns_per_token, in_process(pid, pids))
    return Result(ThreadAdviceTable(tuple(advice)), tuple(findings))


def _split(rows: list[WaitRow], processors: int) -> Split:
    """Of one process: the size of its largest pool, for what drives a pool each may take turns."""
    wall = sum(row.wall_ns for row in rows) or 1
    pools: dict[int, set[int]] = {}
    for row in rows:
        pools.setdefault(row.driver_tid, set()).add(row.ith)
    return Split(
        threads=max(map(len, pools.values())),
        processors=processors,
        work=sum(row.work_ns for row in rows) / wall,
        barrier=sum(row.barrier_ns for row in rows) / wall,
        runnable=sum(row.runnable_ns for row in rows) / wall,
    )


def _dtype(phase: str, rows: Sequence[Verdict]) -> str:
    """The type of the products that bound the phase: of the ceiling by which most of its time was judged."""
    took: dict[str, int] = {}
    for row in rows:
        if row.phase == phase and row.bound == "compute" and row.ceiling.startswith(_GEMM):
            took[row.ceiling] = took.get(row.ceiling, 0) + row.measured_ns
    return max(took, key=lambda name: took[name], default=_GEMM).removeprefix(_GEMM)


def advise(phase: str, split: Split, limit: Bound, ceilings: Ceilings, dtype: str = "", pid: int = 0) -> ThreadAdvice:
    """The advice for one phase of one process. dtype: of its products, "" unknown.

    `gain`: at most so many times as fast, by the ceilings; None: not known.
    """
    threads, processors = split.threads, split.processors

    def said(direction: str, wanted: int | None, gain: float | None, reason: str) -> ThreadAdvice:
        flag = FLAGS.get(phase, "--threads")
        settle = f"record again with {flag} {wanted} and compare tokens/s" if wanted is not None else (
            f"record again with {flag} {max(1, threads - 1)}, and compare tokens/s" if direction == "unknown" else ""
        )  # fmt: skip
        return ThreadAdvice(
            phase, pid, threads, processors, split.work, split.barrier, split.runnable, limit, direction, wanted, gain,
            reason, settle,
        )  # fmt: skip

    if processors and threads > processors:
        return said("fewer", processors, None, f"{threads} threads share {of_processors(processors)}")
    if split.runnable >= CROWDED:
        return said(
            "keep", None, None,
            f"the threads lack a processor for {split.runnable * 100:.0f} % of their time: first see who takes it",
        )  # fmt: skip
    ceiling = _ceiling_of(limit, dtype)
    if ceiling is not None:
        what, kind, name = ceiling
        now = ceilings.get(what, threads, kind)
        others = {
            item.threads: item.value for item in ceilings.items
            if (item.what, item.dtype) == (what, kind) and 0 < item.threads <= (processors or item.threads)
        }  # fmt: skip
        if now is None or threads not in others:
            return said("unknown", None, None, f"no {name} ceiling was measured with {threads} threads")
        best = max(others, key=lambda count: (others[count] >= WORTH * now.value, others[count], -count))
        if others[best] >= WORTH * now.value:
            gain = others[best] / now.value
            direction = "more" if best > threads else "fewer"
            return said(
                direction, best, gain, f"{name} is {gain:.2f} times as high with {best} threads as with {threads}"
            )
        enough = min(count for count, value in others.items() if value * WORTH >= now.value)
        if enough < threads:
            return said("keep", None, None, f"{enough} threads reach the same {name}: fewer would do, more do not help")
        return said("keep", None, None, f"{name} is not higher with any other number of threads up to {max(others)}")
    if split.barrier >= UNEVEN:
        return said(
            "keep", None, None, f"threads wait for each other {split.barrier * 100:.0f} % of the time: more wait more"
        )
    return said("unknown", None, None, "neither memory nor compute is known to limit this phase")


def _ceiling_of(limit: Bound, dtype: str) -> tuple[What, str, str] | None:
    if limit == "memory-dram":
        return "dram_read", "", "memory bandwidth"
    if limit == "memory-cache":
        return "llc_read", "", "cache bandwidth"
    if limit == "compute" and dtype:
        return "gemm", dtype, f"{dtype} arithmetic"
    return None


def _finding(one: ThreadAdvice, ns_per_token: float, where: str) -> list[Finding]:
    if one.direction not in ("more", "fewer") or one.wanted is None:
        return []
    gain = one.gain or 1.0
    return [
        Finding(
            id="thread_count.more" if one.direction == "more" else "thread_count.fewer",
            claim=f"{one.direction.capitalize()} threads may help {one.phase}{where}: {one.wanted} instead of "
            f"{one.threads}",
            phase=one.phase,
            cost_ns_per_token=ns_per_token * (1 - 1 / gain) if gain > 1 and ns_per_token else None,
            confidence="low",
            evidence=(
                one.reason,
                f"of their time the threads work {one.work * 100:.0f} %, wait at barriers "
                f"{one.barrier * 100:.0f} %, lack a processor {one.runnable * 100:.0f} %",
                "an upper bound from ceilings, not a measured gain",
            ),
            advice=f"Try it: {one.settle}.",
        )
    ]


ANALYZER = Analyzer("thread_count", "Number of threads", (GRAPHS, OPERATORS, THREADS, SCHED), analyze)
