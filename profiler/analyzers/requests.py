"""The server's requests: time to first token, whole time, and how many were there at once."""

from __future__ import annotations

from flowprof.profiler.analyzers.contract import REQUESTS, Analyzer, Result, number
from flowprof.profiler.sections import RequestRow, RequestTable
from flowprof.profiler.store import Recording

MAX_ROWS = 500
ROW_SQL = f"""
SELECT r.task_id, r.slot, r.posted_ns - (SELECT min(start_ns) FROM probe_window),
       d.ttft_ns, d.dur_ns, coalesce(r.results, 0)
FROM request r JOIN request_duration d ON d.pid = r.pid AND d.task_id = r.task_id
ORDER BY r.posted_ns NULLS FIRST, r.task_id LIMIT {MAX_ROWS}
"""
TOTAL_SQL = """
SELECT count(*), count(*) FILTER (r.end_ns IS NOT NULL) FROM request r
"""
QUANTILE_SQL = """
SELECT quantile_cont(ttft_ns, 0.5), quantile_cont(ttft_ns, 0.99),
       quantile_cont(dur_ns, 0.5), quantile_cont(dur_ns, 0.99)
FROM request_duration
"""
AT_ONCE_SQL = """
WITH change AS (
    SELECT coalesce(posted_ns, 0) AS at_ns, 1 AS step FROM request
    UNION ALL SELECT end_ns, -1 FROM request WHERE end_ns IS NOT NULL
)
SELECT coalesce(max(n), 0) FROM (SELECT sum(step) OVER (ORDER BY at_ns, step) AS n FROM change)
"""


def analyze(recording: Recording) -> Result:
    count, finished = recording.rows(TOTAL_SQL)[0]
    ttft50, ttft99, dur50, dur99 = (number(value) for value in recording.rows(QUANTILE_SQL)[0])
    rows = tuple(RequestRow(*row) for row in recording.rows(ROW_SQL))
    at_once = int(recording.rows(AT_ONCE_SQL)[0][0])
    return Result(RequestTable(rows, count, finished, ttft50, ttft99, dur50, dur99, at_once))


ANALYZER = Analyzer("requests", "Requests", (REQUESTS,), analyze)
