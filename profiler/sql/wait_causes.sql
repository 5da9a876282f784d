-- Why pool threads did not run during graphs, over the whole recording: by phase, state and whoever was in the way (ns).
-- Sleeping is left out: at a barrier it is how some builds wait, which only thread windows tell from other sleep. What the
-- recorder itself ($recorder) takes is a matter of overhead, not of the target.
WITH away AS (
    SELECT s.*, p.ith FROM absence s JOIN pool_thread p USING (pid, tid)
    WHERE s.state <> 'sleeping' AND NOT (s.state = 'runnable' AND s.by_tid = $recorder)
), stall AS (
    SELECT g.exec_id, k.phase, a.tid, a.ith, a.by_tid, a.by_comm, a.start_ns, least(a.end_ns, g.end_ns) - a.start_ns AS ns, a.state
    FROM away a
    ASOF JOIN (SELECT * FROM graph_exec WHERE end_ns IS NOT NULL) g ON a.pid = g.pid AND a.start_ns >= g.start_ns
    JOIN graph k USING (graph_id)
    WHERE a.start_ns < g.end_ns
), lost AS (  -- while one thread is away the others wait for it: what a graph loses is the most of any thread
    SELECT phase, state, sum(ns) AS lost_ns FROM (
        SELECT exec_id, phase, state, max(ns) AS ns FROM (
            SELECT exec_id, phase, state, ith, sum(ns) AS ns FROM stall GROUP BY ALL
        ) GROUP BY ALL
    ) GROUP BY phase, state
), cause AS (
    SELECT phase, state, by_tid, any_value(by_comm) AS by_comm, tid, ith, count(*) AS times, sum(ns) AS ns,
           max(ns) AS longest_ns, arg_max(start_ns, ns) AS longest_at_ns, min(start_ns) AS first_ns
    FROM stall GROUP BY phase, state, by_tid, tid, ith
)
SELECT c.phase, c.state, c.by_tid, coalesce(c.by_comm, '') AS by_comm, o.ith AS by_ith,
       EXISTS (SELECT 1 FROM thread t WHERE t.tid = c.by_tid) AS by_own_process,
       coalesce((SELECT any_value(cpus) FROM thread t WHERE t.tid = c.by_tid), '') AS by_cpus,
       c.ith, coalesce((SELECT any_value(t.cpus) FROM thread t WHERE t.tid = c.tid), '') AS cpus,
       c.times, c.ns, c.longest_ns, c.longest_at_ns, c.first_ns, l.lost_ns
FROM cause c JOIN lost l USING (phase, state) LEFT JOIN pool_thread o ON o.tid = c.by_tid
ORDER BY c.phase, c.state, c.ns DESC;
