-- Operators for the timeline: all of every $every-th measured graph execution, thread by thread in order of start.
WITH chosen AS (
    SELECT exec_id, pid, graph_id FROM (
        SELECT exec_id, pid, graph_id, level, row_number() OVER (ORDER BY start_ns) - 1 AS position
        FROM graph_exec WHERE level IN ('op', 'thread')
    ) WHERE position % $every = 0
)
SELECT c.pid, c.graph_id, o.node_index, o.tid, o.ith, o.start_ns, o.compute_end_ns, o.end_ns
FROM op_exec o JOIN chosen c USING (exec_id)
WHERE o.end_ns IS NOT NULL AND o.start_ns IS NOT NULL AND o.ith IS NOT NULL
ORDER BY c.pid, o.ith, o.tid, o.start_ns;
