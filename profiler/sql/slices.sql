-- Stretches of executions with about $rows operators each: their first and last execution, and the time from the start of
-- one of them to the end of one of them (ns).
WITH slice AS (
    SELECT exec_id, (sum(count(*)) OVER (ORDER BY exec_id) - 1) // $rows AS number FROM op_exec GROUP BY exec_id
)
SELECT min(exec_id) AS first, max(exec_id) AS last, min(start_ns) AS from_ns, max(end_ns) AS to_ns
FROM slice JOIN graph_exec USING (exec_id)
WHERE end_ns IS NOT NULL GROUP BY number ORDER BY number;
