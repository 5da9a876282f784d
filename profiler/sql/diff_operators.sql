-- Operators on the first thread of executions $first to $last.
SELECT exec_id, node_index, (end_ns - start_ns)::DOUBLE AS ns
FROM op_exec WHERE ith = 0 AND end_ns IS NOT NULL AND exec_id BETWEEN $first AND $last
