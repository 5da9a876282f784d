-- Why pool threads did not run during graphs, over the whole recording: by process, phase, state and whoever was in the
-- way (ns). Sleeping is left out: at a barrier it is how some builds wait, which only thread windows tell from other sleep.
-- A stopped process makes no step, so for that what lies between a graph and the one before it counts, too. What the
-- recorder itself ($recorder) takes is a matter of overhead, not of the target. Times are since $began.
WITH away AS (
    SELECT s.*, p.ith, p.driver_tid FROM absence s JOIN pool_member p USING (pid, tid)
    WHERE s.state <> 'sleeping' AND NOT (s.state = 'runnable' AND s.by_tid = $recorder)
), step AS MATERIALIZED (  -- every thread's graphs in their order, with what lies before them
    SELECT exec_id, phase, pid, driver_tid, start_ns, start_ns + dur_ns AS end_ns,
           coalesce(lag(start_ns + dur_ns) OVER in_turn, start_ns) AS from_ns, row_number() OVER in_turn AS number
    FROM graph_duration WINDOW in_turn AS (PARTITION BY pid, driver_tid ORDER BY start_ns)
), reach AS (
    SELECT a.*, f.number AS first_number, l.number AS last_number
    FROM away a
    ASOF JOIN step f ON a.pid = f.pid AND a.driver_tid = f.driver_tid AND a.start_ns < f.end_ns
    ASOF JOIN step l ON a.pid = l.pid AND a.driver_tid = l.driver_tid AND a.end_ns > l.from_ns
), stall AS (
    SELECT g.exec_id, g.phase, a.pid, a.tid, a.ith, a.start_ns, a.state,
           coalesce(o.pid, a.by_tid) AS by_tid, a.by_comm,  -- another recorded process is one program, too
           least(a.end_ns, g.end_ns) - greatest(a.start_ns, CASE WHEN a.state = 'stopped' THEN g.from_ns ELSE g.start_ns END) AS ns
    FROM (SELECT *, unnest(range(first_number, last_number + 1)) AS number FROM reach) a
    JOIN step g ON a.pid = g.pid AND a.driver_tid = g.driver_tid AND a.number = g.number
    LEFT JOIN (SELECT tid, any_value(pid) AS pid FROM thread GROUP BY tid) o ON o.tid = a.by_tid AND o.pid <> a.pid
    WHERE ns > 0
), lost AS (  -- while one thread is away the others wait for it: what a graph loses is the most of any thread
    SELECT pid, phase, state, sum(ns) AS lost_ns FROM (
        SELECT pid, exec_id, phase, state, max(ns) AS ns FROM (
            SELECT pid, exec_id, phase, state, ith, sum(ns) AS ns FROM stall GROUP BY ALL
        ) GROUP BY ALL
    ) GROUP BY pid, phase, state
), cause AS (
    SELECT pid, phase, state, by_tid, any_value(by_comm) AS by_comm, tid, ith, count(*) AS times, sum(ns) AS ns,
           max(ns) AS longest_ns, arg_max(start_ns, ns) AS longest_at_ns, min(start_ns) AS first_ns
    FROM stall GROUP BY pid, phase, state, by_tid, tid, ith
)
SELECT c.pid, c.phase, c.state, c.by_tid, coalesce(c.by_comm, '') AS by_comm, o.ith AS by_ith,
       EXISTS (SELECT 1 FROM thread t WHERE t.pid = c.pid AND t.tid = c.by_tid) AS by_own_process,
       coalesce((SELECT any_value(cpus) FROM thread t WHERE t.tid = c.by_tid), '') AS by_cpus,
       c.ith, coalesce((SELECT any_value(t.cpus) FROM thread t WHERE t.tid = c.tid), '') AS cpus,
       c.times, c.ns, c.longest_ns, c.first_ns - $began AS first_ns, c.longest_at_ns - $began AS longest_at_ns, l.lost_ns
FROM cause c JOIN lost l USING (pid, phase, state) LEFT JOIN pool_thread o ON o.pid = c.pid AND o.tid = c.by_tid
ORDER BY c.pid, c.phase, c.state, c.ns DESC;
