-- When and why pool threads were off the processor between $from_ns and $to_ns. A thread that another of its pool woke
-- slept at a barrier: that is the barrier's time; so did one whose stack leads into a barrier, whoever woke it. Who woke a
-- sleeper is NULL when unknown: it slept at a barrier, too, as far as one can tell.
WITH pool AS (SELECT pid, tid FROM thread WHERE ith IS NOT NULL GROUP BY pid, tid),
own AS (SELECT DISTINCT pid, tid FROM thread)
SELECT s.pid, s.tid, s.start_ns, s.end_ns, s.state,
       CASE WHEN o.tid IS NOT NULL THEN 'its own threads' WHEN s.by_tid = 0 AND s.state = 'sleeping' THEN 'an interrupt'
            ELSE coalesce(s.by_comm, '') END AS by_comm
FROM absence s JOIN pool USING (pid, tid) LEFT JOIN own o ON o.pid = s.pid AND o.tid = s.by_tid
WHERE s.start_ns < $to_ns AND s.end_ns > greatest(s.start_ns, $from_ns) AND NOT (
    s.state = 'sleeping' AND (s.by_tid IS NULL OR coalesce(s.stack_id IN (FROM barrier_stack), false)
                              OR EXISTS (SELECT 1 FROM pool p WHERE p.pid = s.pid AND p.tid = s.by_tid))
);
