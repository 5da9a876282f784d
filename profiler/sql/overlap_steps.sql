-- From the end of one decode step to the beginning of the next in the same process, no other graph between (ns): sampling,
-- tokenising, HTTP. `limit_ns` and above is a pause between requests (as in tpot.sql). asleep_ns: of the gap, the driving
-- thread slept, where the scheduler was recorded.
WITH step AS (
    SELECT e.pid, e.tid, g.phase, coalesce(g.outputs, g.tokens, 1) AS sequences, e.start_ns, e.end_ns,
           lag(g.phase) OVER process AS before, lag(e.end_ns) OVER process AS before_end_ns
    FROM graph_exec e JOIN graph g USING (graph_id)
    WHERE e.end_ns IS NOT NULL
    WINDOW process AS (PARTITION BY e.pid ORDER BY e.start_ns)
), pause AS (
    SELECT greatest(100e6, 4 * median(end_ns - start_ns)) AS ns FROM step WHERE phase = 'decode'
)
SELECT pid, coalesce(tid, pid) AS tid, sequences, before_end_ns, start_ns, end_ns
FROM step, pause
WHERE phase = 'decode' AND before = 'decode' AND start_ns >= before_end_ns AND start_ns - before_end_ns <= pause.ns
ORDER BY pid, start_ns
