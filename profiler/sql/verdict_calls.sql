-- The measured operators of executions $first to $last on their first threads, in order of time.
SELECT g.pid, o.tid, o.start_ns, o.end_ns, m.graph_id, o.node_index
FROM op_exec o JOIN measured_graph m USING (exec_id) JOIN graph g ON g.graph_id = m.graph_id
WHERE o.exec_id BETWEEN $first AND $last AND o.ith = 0 AND o.end_ns IS NOT NULL
ORDER BY o.tid, o.start_ns;
