"""Several recorded processes (`attach P1,P2`): which one kept which from the processors.

* `processes.starved`: threads of one process could run while those of another recorded one had their processor, for at
  least 5 % of the processor time that they asked for (what they had, and what they waited for) and 10 ms. A stretch in
  which a thread waits for a processor is booked whole on the thread that was put in its place. Bind the two to
  processors of their own (taskset, cpusets), or give each fewer threads.

Memory bandwidth is not told apart: what each process moved is not counted over time. Of GPUs the launches are known
where CUDA is probed, and not who waited for whom: that happens on the device.
"""

from __future__ import annotations

from pathlib import PurePath

from flowprof.profiler.analyzers.contract import SCHED, Analyzer, Need, Result
from flowprof.profiler.blame import thresholds
from flowprof.profiler.blame.thresholds import Thresholds
from flowprof.profiler.findings import Finding
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
LAUNCH_SQL = """
SELECT c.pid, count(*) FROM device_call d JOIN api_call c USING (call_id)
WHERE d.what IN ('launch', 'graph_launch') GROUP BY c.pid ORDER BY c.pid
"""


def analyze(recording: Recording) -> Result:
    names = {int(pid): PurePath(exe).name[:40] or "?" for pid, exe in recording.rows(NAME_SQL)}
    rows = tuple(
        Starved(pid, by, lost, longest, times, float(lost / asked) if asked else None)
        for pid, by, lost, longest, times, asked in recording.rows(SQL)
    )
    launches = ", ".join(f"{pid}: {count}" for pid, count in recording.rows(LAUNCH_SQL))
    not_seen = (
        "memory bandwidth: what each process moves is not counted over time",
        f"GPU: launches {launches}; who waited for whom on the device is not observed from the host"
        if launches
        else "GPU: no launches were recorded",
    )
    table = ProcessTable(rows, tuple(names), tuple(names.items()), not_seen)
    limits = thresholds.of(recording)
    return Result(table, tuple(_finding(row, names) for row in rows if _is_starved(row, limits)))


def _is_starved(row: Starved, limits: Thresholds) -> bool:
    long = row.lost_ns >= limits.of("processes", "least_ms") * 1e6
    return long and row.share is not None and row.share >= limits.of("processes", "starved_share")


def _finding(row: Starved, names: dict[int, str]) -> Finding:
    whom, by = (f"{names.get(pid, '?')} ({pid})" for pid in (row.pid, row.by_pid))
    return Finding(
        id="processes.starved",
        claim=f"{by} had the processor for {row.lost_ns / 1e6:.0f} ms while threads of {whom} could run: "
        f"{(row.share or 0) * 100:.0f} % of what these asked for",
        phase="",
        cost_ns_per_token=None,
        confidence="high",
        evidence=(
            f"{row.times} times, {row.longest_ns / 1e6:.1f} ms at most; over all threads of {row.pid}",
            "asked for: processor time that its threads had, and that they waited for, as the kernel counted",
        ),
        advice="Give each processors of its own (taskset, cgroup cpusets), or fewer threads: together they want more "
        "processors than there are.",
        severity="problem",
    )


ANALYZER = Analyzer("processes", "Processes", (SEVERAL, SCHED), analyze)
