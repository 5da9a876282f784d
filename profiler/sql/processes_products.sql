-- The measured operators of executions $first to $last on their first threads, by process and in order of time.
SELECT m.pid, m.exec_id, m.graph_id, m.level = 'thread' AS deep, m.driver_tid, o.node_index, o.start_ns, o.end_ns
FROM op_exec o JOIN measured_graph m USING (exec_id)
WHERE o.exec_id BETWEEN $first AND $last AND o.ith = 0 AND o.end_ns IS NOT NULL
ORDER BY m.pid, o.start_ns;
