-- Every node of every measured graph: calls, time and median call on the first thread (ns).
SELECT m.graph_id, o.node_index, count(*) AS calls, sum(o.end_ns - o.start_ns) AS ns,
       quantile_cont(o.end_ns - o.start_ns, 0.5) AS p50_ns
FROM op_exec o JOIN measured_graph m USING (exec_id)
WHERE o.ith = 0 AND o.end_ns IS NOT NULL
GROUP BY m.graph_id, o.node_index
ORDER BY m.graph_id, o.node_index;
