-- Every node of graphs at thread level: its threads, wall time of a call on the first one, the threads' mean own work,
-- and the shortest mean wait of any thread, which is the barrier's own cost (ns per call).
WITH per_thread AS (
    SELECT m.graph_id, o.node_index, o.ith, count(*) AS calls, sum(o.end_ns - o.start_ns) AS wall_ns,
           sum(o.compute_end_ns - o.start_ns) AS compute_ns, sum(o.end_ns - o.compute_end_ns) AS wait_ns
    FROM op_exec o JOIN measured_graph m USING (exec_id)
    WHERE m.level = 'thread' AND o.compute_end_ns IS NOT NULL AND o.end_ns IS NOT NULL
    GROUP BY m.graph_id, o.node_index, o.ith
)
SELECT graph_id, node_index, count(*) AS threads, max(calls) FILTER (ith = 0) AS calls,
       max(wall_ns / calls) FILTER (ith = 0) AS wall_ns, avg(compute_ns / calls) AS compute_ns,
       min(wait_ns / calls) AS barrier_ns
FROM per_thread
GROUP BY graph_id, node_index
HAVING count(*) FILTER (ith = 0) > 0
ORDER BY graph_id, node_index;
