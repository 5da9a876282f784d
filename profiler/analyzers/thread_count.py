"""Would more threads help, or fewer? From the time split of the threads, the bound of the phase and the ceilings.

Per phase and process (the bound and the price are of the process's own graphs and tokens):

* more threads than processors: fewer. A spinning barrier waits for threads that have no processor.
* threads that lack a processor for 10 % of their time: not more; others take them (see Waits).
* bound by memory or compute: the ceiling of that kind at other numbers of threads says what to expect at most.
  Bandwidth is often used up by a few threads, arithmetic rarely.
* waiting at barriers for a quarter of the time or more: not more, the work is not divided well as it is.
* else nothing can be said.

What rests on ceilings names them and their sources: upper bounds, never measured gains. What settles it, also where the
advice is to keep the number, is a recording at another one, and `settle` says which. Prefill and decode may disagree:
llama.cpp has --threads for decode and --threads-batch for prefill.

* `thread_count.more`: the phase's ceiling is higher with more threads. Restart with that number, record, and compare.
* `thread_count.fewer`: the phase's ceiling is higher with fewer threads, or there are more than processors. Restart
  with that number, record, and compare. Where fewer threads only do as well, the table says so, and it is no finding.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.analyzers import verdicts
from flowprof.profiler.analyzers.absence import computing, in_process, of_processors, splits
from flowprof.profiler.analyzers.contract import (
    GRAPHS,
    OPERATORS,
    SCHED,
    THREADS,
    Analyzer,
    Result,
    coverage,
    ratio,
    recorded_ceilings,
)
from flowprof.profiler.findings import Finding
from flowprof.profiler.machine.ceilings import Ceiling, Ceilings, What
from flowprof.profiler.roofline.least_time import describe
from flowprof.profiler.sections.bound import Bound
from flowprof.profiler.sections.thread_count import ThreadAdvice, ThreadAdviceTable
from flowprof.profiler.sections.waits import WaitRow
from flowprof.profiler.store import Recording

CROWDED = 0.10  # of the time without a processor
UNEVEN = 0.25  # of the time at barriers
WORTH = 1.05  # a ceiling that is higher by less is the same ceiling
FLAGS = {"prefill": "--threads-batch", "decode": "--threads"}
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
    limits = verdicts.limits(recording)  # none without ceilings: then only the time split speaks
    spent = {
        (item.phase, pid): ratio(item.measured_ns, item.tokens_measured)
        for pid in pids for item in coverage(recording, "op", "thread", pid=pid)
    }  # fmt: skip
    processors = dict(recording.rows(PROCESSORS_SQL))
    ceilings = recorded_ceilings(recording)
    advice, findings = [], []
    for phase, pid in dict.fromkeys((row.phase, row.pid) for row in rows):
        split = _split([row for row in rows if (row.phase, row.pid) == (phase, pid)], processors.get(pid, 0))
        limit, dtype = limits.get((phase, pid), ("unknown", ""))
        one = advise(phase, split, limit, ceilings, dtype, pid)
        advice.append(one)
        findings += _finding(one, spent.get((phase, pid)) or 0.0, in_process(pid, pids))
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


def advise(phase: str, split: Split, limit: Bound, ceilings: Ceilings, dtype: str = "", pid: int = 0) -> ThreadAdvice:
    """The advice for one phase of one process. dtype: of its products, "" unknown.

    `gain`: at most so many times as fast, by the ceilings; None: not known.
    """
    view = _crowding(split) or _by_ceilings(split, limit, ceilings, dtype) or _by_split(split)
    flag = FLAGS.get(phase, "--threads")
    return ThreadAdvice(
        phase=phase,
        pid=pid,
        threads=split.threads,
        processors=split.processors,
        work=split.work,
        barrier=split.barrier,
        runnable=split.runnable,
        limit=limit,
        direction=view.direction,
        wanted=view.other if view.direction in ("more", "fewer") else None,
        gain=view.gain,
        reason=view.reason,
        settle=view.first or (f"record again with {flag} {view.other} and compare tokens/s" if view.other else ""),
        evidence=tuple(f"{describe(ceiling)}: {ceiling.source}" for ceiling in view.told),
    )


@dataclass(frozen=True, slots=True)
class _View:
    """What one of the questions says."""

    direction: str
    reason: str
    other: int = 0  # threads that would settle it; 0: there is no other number to try
    first: str = ""  # what is to be done before another number is tried
    gain: float | None = None
    told: tuple[Ceiling, ...] = ()  # that were compared


def _crowding(split: Split) -> _View | None:
    threads, processors = split.threads, split.processors
    if processors and threads > processors:
        return _View("fewer", f"{threads} threads share {of_processors(processors)}", processors)
    if split.runnable >= CROWDED:
        return _View(
            "keep",
            f"the threads lack a processor for {split.runnable * 100:.0f} % of their time: first see who takes it",
            first="record again without whoever takes the processors (see the waits)",
        )
    return None


def _by_ceilings(split: Split, limit: Bound, ceilings: Ceilings, dtype: str) -> _View | None:
    ceiling, threads = _ceiling_of(limit, dtype), split.threads
    if ceiling is None:
        return None
    what, kind, name = ceiling
    measured = {
        item.threads: item for item in ceilings.items
        if (item.what, item.dtype) == (what, kind) and 0 < item.threads <= (split.processors or item.threads)
    }  # fmt: skip
    now = measured.get(threads)
    if now is None:
        return _View(
            "unknown",
            f"no {name} ceiling was measured with {threads} threads",
            first=f"measure it (flowprof calibrate --threads {threads}) and record again",
        )
    best = max(measured.values(), key=lambda item: (item.value >= WORTH * now.value, item.value, -item.threads))
    if best.value >= WORTH * now.value:
        gain, direction = best.value / now.value, "more" if best.threads > threads else "fewer"
        reason = f"{name} is {gain:.2f} times as high with {best.threads} threads as with {threads}"
        return _View(direction, reason, best.threads, gain=gain, told=(now, best))
    enough = min(count for count, item in measured.items() if item.value * WORTH >= now.value)
    if enough < threads:
        reason = f"{enough} threads reach the same {name}: fewer would do, more do not help"
        return _View("keep", reason, enough, told=(now, measured[enough]))
    other = min((count for count in measured if count > threads), default=threads - 1)
    reason = f"{name} is not higher with any other number of threads up to {max(measured)}"
    return _View("keep", reason, other, told=(now, *(item for count, item in measured.items() if count == other)))


def _by_split(split: Split) -> _View:
    if split.barrier >= UNEVEN:
        reason = f"threads wait for each other {split.barrier * 100:.0f} % of the time: more wait more"
        return _View("keep", reason, split.threads - 1)
    return _View("unknown", "neither memory nor compute is known to limit this phase", max(1, split.threads - 1))


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
                *one.evidence,
                "an upper bound from ceilings, not a measured gain",
            ),
            advice=f"Try it: {one.settle}.",
        )
    ]


ANALYZER = Analyzer("thread_count", "Number of threads", (GRAPHS, OPERATORS, THREADS, SCHED), analyze)
