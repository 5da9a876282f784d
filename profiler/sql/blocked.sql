-- Where threads went to wait: by process, state and stack (-1: none), the $limit longest of threads that compute first.
WITH busy AS (     -- threads that drive or compute graphs, or call operators
    SELECT pid, tid FROM pool_thread UNION SELECT DISTINCT pid, tid FROM api_call
), wait AS (
    SELECT s.pid, s.tid, s.state, coalesce(e.first_id, -1) AS stack, s.start_ns, s.end_ns - s.start_ns AS ns,
           CASE WHEN s.by_tid <> 0 THEN coalesce(s.by_comm, '') ELSE '' END AS by_comm
    FROM absence s LEFT JOIN equal_stack e USING (stack_id)
    WHERE s.state IN ('sleeping', 'fault', 'disk', 'stopped') AND s.end_ns > s.start_ns
), place AS (
    SELECT w.pid, w.state, w.stack, count(DISTINCT w.tid) AS threads, bool_or(b.tid IS NOT NULL) AS computes,
           sum(w.ns)::BIGINT AS ns, count(*) AS times, max(w.ns) AS longest_ns, arg_max(w.start_ns, w.ns) AS longest_at_ns
    FROM wait w LEFT JOIN busy b USING (pid, tid) GROUP BY w.pid, w.state, w.stack
), who AS (
    SELECT pid, state, stack, arg_max(comm, ns) AS comm
    FROM (SELECT w.pid, w.state, w.stack, coalesce(any_value(t.comm), '') AS comm, sum(w.ns) AS ns
          FROM wait w LEFT JOIN thread t USING (pid, tid) GROUP BY w.pid, w.state, w.stack, w.tid) GROUP BY ALL
), by_whom AS (
    SELECT pid, state, stack, arg_max(by_comm, ns) AS by_comm
    FROM (SELECT pid, state, stack, by_comm, sum(ns) AS ns FROM wait GROUP BY ALL) GROUP BY pid, state, stack
)
SELECT p.pid, p.state, p.stack, w.comm, p.threads, p.computes, b.by_comm, p.ns, p.times, p.longest_ns, p.longest_at_ns,
       (SELECT sum(ns)::BIGINT FROM place) AS total_ns,
       (SELECT coalesce(sum(ns), 0)::BIGINT FROM place WHERE stack = -1) AS no_stack_ns
FROM place p JOIN who w USING (pid, state, stack) JOIN by_whom b USING (pid, state, stack)
ORDER BY p.stack = -1, NOT p.computes, p.ns DESC LIMIT $limit;
