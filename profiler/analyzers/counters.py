"""What the kernel counted for each thread of the pool: processor time, context switches, page faults.

Exact counts over the whole recording, waits between requests included. Hardware counters (cycles, instructions, cache
misses) are counted per operator, where they were asked for (operator_counters.py); `hardware` says whether.
"""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import Analyzer, Need, Result
from flowprof.profiler.sections.counters import CounterRow, CounterTable
from flowprof.profiler.store import Recording

SQL = """
SELECT c.pid, c.tid, p.ith, coalesce(p.comm, ''), map_from_entries(list((c.name, c.value)))
FROM counter c JOIN (
    SELECT tid, min(ith) AS ith, any_value(comm) AS comm FROM thread GROUP BY tid
) p USING (tid)
WHERE p.ith IS NOT NULL OR c.tid IN (SELECT tid FROM graph_exec)
GROUP BY c.pid, c.tid, p.ith, p.comm ORDER BY p.ith, c.tid
"""
ABSENT = "cycles, instructions and cache misses were not recorded; record with --counters all"
PER_OPERATOR = "counted per operator"
COUNTED_SQL = "SELECT count(cycles) > 0 FROM op_counter"
NEEDED = Need("SELECT count(*) > 0 FROM counter", "no counters; record again with this version of flowprof")


def analyze(recording: Recording) -> Result:
    rows = tuple(
        CounterRow(
            pid=pid,
            tid=tid,
            ith=ith,
            comm=comm,
            task_clock_ns=values.get("task_clock_ns"),
            run_delay_ns=values.get("run_delay_ns"),
            voluntary_switches=values.get("voluntary_switches"),
            involuntary_switches=values.get("involuntary_switches"),
            minor_faults=values.get("minor_faults"),
            major_faults=values.get("major_faults"),
        )
        for pid, tid, ith, comm, values in recording.rows(SQL)
    )
    counted = recording.rows(COUNTED_SQL)[0][0]
    return Result(CounterTable(rows, PER_OPERATOR if counted else ABSENT))


ANALYZER = Analyzer("counters", "Counters", (NEEDED,), analyze)
