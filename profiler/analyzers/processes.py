"""Several recorded processes (`attach P1,P2`): which one kept which from processors, memory bandwidth, a GPU.

* `processes.starved`: threads of one process could run while those of another recorded one had their processor, for at
  least 5 % of the processor time that they asked for (what they had, and what they waited for) and 10 ms. A stretch in
  which a thread waits for a processor is booked whole on the thread that was put in its place. Bind the two to
  processors of their own (taskset, cpusets), or give each fewer threads.
* `processes.memory`: an engine's products, which read their weights from memory, take longer while graphs of another
  recorded engine run than the same ones while none does: by 5 % of their time or more and 10 ms, with an interval that
  excludes none, and what both move together is near the ceiling of memory (processes_memory.py). Let them take turns,
  serve both from one engine (whose batch reads the weights once), give them smaller weights, or a NUMA node each.
* `processes.gpu`: launching work for a GPU and waiting for it takes a process as much longer while another recorded one
  has work in flight (processes_gpu.py). The device is not observed, so how they share it is not told. Give each a GPU,
  or a part of one (MIG); or serve both from one process.

Each is left out, with the reason in `not_told`, where a recording does not hold the same work alone and beside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from flowprof.profiler.analyzers import processes_gpu, processes_memory
from flowprof.profiler.analyzers.contract import SCHED, Analyzer, Need, Result
from flowprof.profiler.blame import thresholds
from flowprof.profiler.blame.thresholds import Thresholds
from flowprof.profiler.findings import Finding, in_ms
from flowprof.profiler.sections.processes import ProcessTable, Starved
from flowprof.profiler.store import Recording

MAX_ROWS = 50
SEVERAL = Need("SELECT count(DISTINCT pid) > 1 FROM process", "one process; record several with attach PID1,PID2")
SQL = f"""
WITH own AS (SELECT DISTINCT pid, tid FROM thread),
asked AS (SELECT pid, sum(value) AS ns FROM counter WHERE name IN ('task_clock_ns', 'run_delay_ns') GROUP BY pid)
SELECT s.pid, o.pid, sum(s.end_ns - s.start_ns)::BIGINT AS lost, max(s.end_ns - s.start_ns), count(*), any_value(a.ns)
FROM thread_state s JOIN own o ON o.tid = s.by_tid LEFT JOIN asked a ON a.pid = s.pid
WHERE s.state = 'runnable' AND o.pid <> s.pid
GROUP BY s.pid, o.pid ORDER BY lost DESC LIMIT {MAX_ROWS}
"""
NAME_SQL = "SELECT DISTINCT ON (pid) pid, coalesce(exe, '') FROM process ORDER BY pid"


def analyze(recording: Recording) -> Result:
    names = {int(pid): PurePath(exe).name[:40] or "?" for pid, exe in recording.rows(NAME_SQL)}
    rows = [
        Starved(pid, by, "processor", lost, float(lost / asked) if asked else None, times, longest)
        for pid, by, lost, longest, times, asked in recording.rows(SQL)
    ]
    not_told = []
    for words, means in (("memory bandwidth", processes_memory), ("GPU", processes_gpu)):
        found, why = means.starved(recording)
        rows += sorted(found, key=lambda row: -row.lost_ns)[:MAX_ROWS]
        not_told += [f"{words}: {one}" for one in why[:MAX_ROWS]]
    limits = thresholds.of(recording)
    told = tuple(_FINDINGS[row.means](row, names) for row in rows if _is_starved(row, limits))
    return Result(ProcessTable(tuple(rows), tuple(names), tuple(names.items()), tuple(not_told)), told)


def _is_starved(row: Starved, limits: Thresholds) -> bool:
    long = row.lost_ns >= limits.of("processes", "least_ms") * 1e6
    much = row.share is not None and row.share >= limits.of("processes", "starved_share")
    sure = row.slower is None or row.slower.low > 1
    full = row.means != "memory" or _full(row) >= limits.of("processes", "full_memory_share")
    return long and much and sure and full


def _full(row: Starved) -> float:
    return row.moved / row.ceiling if row.moved is not None and row.ceiling else 0.0


def _both(row: Starved, names: dict[int, str]) -> tuple[str, str]:
    whom, by = (f"{names.get(pid, '?')} ({pid})" for pid in (row.pid, row.by_pid))
    return whom, by


def _processor(row: Starved, names: dict[int, str]) -> Finding:
    whom, by = _both(row, names)
    return Finding(
        id="processes.starved",
        claim=f"{by} had the processor for {row.lost_ns / 1e6:.0f} ms while threads of {whom} could run: "
        f"{(row.share or 0) * 100:.0f} % of what these asked for",
        confidence="high",
        evidence=(
            f"{row.times} times, {(row.longest_ns or 0) / 1e6:.1f} ms at most; over all threads of {row.pid}",
            "asked for: processor time that its threads had, and that they waited for, as the kernel counted",
        ),
        advice="Give each processors of its own (taskset, cgroup cpusets), or fewer threads: together they want more "
        "processors than there are.",
        severity="problem",
    )


def _memory(row: Starved, names: dict[int, str]) -> Finding:
    whom, by = _both(row, names)
    return Finding(
        id="processes.memory",
        claim=f"{by} takes memory bandwidth from {whom}: its products in {row.phase} take {_times(row)} as long while "
        f"graphs of {row.by_pid} run, {in_ms(row.lost_ns_per_token or 0)} per token",
        phase=row.phase,
        cost_ns_per_token=row.lost_ns_per_token,
        confidence="high" if row.slower is not None and min(row.slower.alone, row.slower.beside) >= 100 else "medium",
        evidence=(
            f"{(row.moved or 0) / 1e9:.3g} GB/s by both together, {_full(row) * 100:.0f} % of what memory gives",
            *row.evidence,
            _seen(row, "executions of its graphs"),
            "calls in which one of its threads had no processor are left out; per token: of those beside the other",
        ),
        advice="Let the two take turns, serve both from one engine (its batch reads the weights once), take smaller "
        "weights, or a NUMA node for each: more threads do not help.",
        severity="problem",
    )


def _gpu(row: Starved, names: dict[int, str]) -> Finding:
    whom, by = _both(row, names)
    return Finding(
        id="processes.gpu",
        claim=f"the launches of {whom} wait for those of {by}: launching and waiting takes {_times(row)} as long while "
        f"that one has work in flight, {in_ms(row.lost_ns)} in all",
        confidence="medium",
        evidence=(*row.evidence, _seen(row, "rounds of launches and a wait")),
        advice="Give each process a GPU, or a part of one (MIG), or serve both from one process; a GPU trace of both "
        "(flowprof import) shows how they share it.",
        severity="problem",
    )


def _times(row: Starved) -> str:
    assert row.slower is not None
    return f"{row.slower.ratio:.2f} times (95 %: {row.slower.low:.2f} … {row.slower.high:.2f})"


def _seen(row: Starved, what: str) -> str:
    assert row.slower is not None
    return f"{row.slower.beside} {what} beside, {row.slower.alone} alone; it began or ceased {row.slower.changes} times"


_FINDINGS: dict[str, Callable[[Starved, dict[int, str]], Finding]] = {
    "processor": _processor,
    "memory": _memory,
    "GPU": _gpu,
}
ANALYZER = Analyzer("processes", "Processes", (SEVERAL, SCHED), analyze)
