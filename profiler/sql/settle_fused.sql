-- At the end of a recording: a node that was never visited while its graph's operators were recorded from first to last
-- is computed as part of another one (fused).
UPDATE graph_node SET executes = false FROM (
    SELECT graph_id, list(DISTINCT node_index) AS visited
    FROM op_exec JOIN graph_exec USING (exec_id) WHERE level <> 'token' AND ith = 0 GROUP BY graph_id
) seen
WHERE graph_node.graph_id = seen.graph_id AND executes AND NOT list_contains(seen.visited, node_index)
