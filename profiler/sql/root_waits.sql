-- Waits of pool threads during graphs that somebody else ends: asleep, over the whole recording; at barriers of $least ns
-- or more in thread windows, until the last thread came. Sleep at a barrier is in both: they are not to be added.
WITH asleep AS (
    SELECT k.phase, 'sleeping' AS wait, s.pid, p.ith, s.tid, s.start_ns, least(s.end_ns, g.end_ns) AS end_ns,
           coalesce(s.by_tid, 0) AS by_tid
    FROM (SELECT * FROM absence WHERE state = 'sleeping') s JOIN pool_thread p USING (pid, tid)
    ASOF JOIN (SELECT * FROM graph_exec WHERE end_ns IS NOT NULL) g ON s.pid = g.pid AND s.start_ns >= g.start_ns
    JOIN graph k USING (graph_id)
    WHERE s.start_ns < g.end_ns
), long AS (
    SELECT exec_id, node_index, tid, ith, compute_end_ns
    FROM op_exec WHERE end_ns - compute_end_ns >= $least
), late AS (
    SELECT o.exec_id, o.node_index, max(o.compute_end_ns) AS last_ns, arg_max(o.tid, o.compute_end_ns) AS last_tid
    FROM op_exec o SEMI JOIN long l ON o.exec_id = l.exec_id AND o.node_index = l.node_index
    WHERE o.compute_end_ns IS NOT NULL GROUP BY o.exec_id, o.node_index
), barrier AS (
    SELECT m.phase, 'barrier' AS wait, m.pid, l.ith, l.tid, l.compute_end_ns AS start_ns, t.last_ns AS end_ns,
           t.last_tid AS by_tid
    FROM long l JOIN late t USING (exec_id, node_index) JOIN measured_graph m USING (exec_id)
    WHERE m.level = 'thread' AND t.last_tid <> l.tid AND t.last_ns - l.compute_end_ns >= $least
)
FROM asleep UNION ALL FROM barrier;
