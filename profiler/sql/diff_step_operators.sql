-- Every thread's operators of one execution, thread by thread in order of start (as timeline_operators.sql has them).
SELECT e.pid, e.graph_id, o.node_index, o.tid, o.ith, o.start_ns, o.compute_end_ns, o.end_ns
FROM op_exec o JOIN graph_exec e USING (exec_id)
WHERE exec_id = $exec AND o.end_ns IS NOT NULL AND o.start_ns IS NOT NULL AND o.ith IS NOT NULL
ORDER BY o.ith, o.tid, o.start_ns
