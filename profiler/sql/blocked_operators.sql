-- The operators during which threads went to wait with one of the stacks $stacks: by process, state, stack, phase, operator
-- and block, how long of these waits (ns). Known in op windows of the first thread, in thread windows of the whole pool.
-- Of the executions $first to $last, which ran from $from_ns to $to_ns.
WITH wait AS MATERIALIZED (
    SELECT s.pid, s.tid, s.state, e.first_id AS stack, s.start_ns, s.end_ns
    FROM absence s JOIN equal_stack e USING (stack_id)
    WHERE e.first_id IN (SELECT unnest($stacks)) AND s.state IN ('sleeping', 'fault', 'disk', 'stopped')
      AND s.end_ns > s.start_ns AND s.start_ns BETWEEN $from_ns AND $to_ns
), ran AS (
    SELECT m.graph_id, m.phase, o.node_index, o.tid, o.start_ns, o.end_ns
    FROM op_exec o JOIN measured_graph m USING (exec_id)
    WHERE o.exec_id BETWEEN $first AND $last AND o.end_ns IS NOT NULL AND o.tid IN (SELECT tid FROM wait)
)
SELECT w.pid, w.state, w.stack, r.phase, n.op, coalesce(n.block, '') AS block,
       sum(least(w.end_ns, r.end_ns) - w.start_ns)::BIGINT AS ns
FROM wait w
ASOF JOIN ran r ON w.tid = r.tid AND w.start_ns >= r.start_ns
JOIN graph_node n ON n.graph_id = r.graph_id AND n.node_index = r.node_index
WHERE w.start_ns < r.end_ns
GROUP BY ALL;
