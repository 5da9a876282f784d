-- Threads that did not run when the recording ended ($end): by process, state and stack, the $limit first.
WITH busy AS (     -- threads that drive or compute graphs, or call operators
    SELECT pid, tid FROM pool_thread UNION SELECT DISTINCT pid, tid FROM api_call
)
SELECT o.pid, o.state, e.first_id AS stack, coalesce(any_value(t.comm), '') AS comm, count(DISTINCT o.tid) AS threads,
       bool_or(b.tid IS NOT NULL) AS computes,
       CASE WHEN bool_and(o.since_ns IS NOT NULL) THEN max($end - o.since_ns) END AS longest_ns
FROM open_wait o JOIN equal_stack e USING (stack_id) LEFT JOIN thread t USING (pid, tid) LEFT JOIN busy b USING (pid, tid)
WHERE o.since_ns IS NULL OR o.since_ns < $end  -- who went later ran when the recording ended
GROUP BY o.pid, o.state, e.first_id
ORDER BY NOT computes, threads DESC, stack LIMIT $limit;
