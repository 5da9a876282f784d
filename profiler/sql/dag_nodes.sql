-- The tensors of graph $graph with the mean time of one execution on the first thread (ns), at most $limit of them.
SELECT n.node_index, n.leaf, n.op, n.name, n.type, n.layer, n.block, n.ne, n.size_bytes, n.sources, n.executes,
       coalesce(t.calls, 0) AS calls, t.mean_ns
FROM graph_node n LEFT JOIN (
    SELECT node_index, count(*) AS calls, avg(dur_ns) AS mean_ns
    FROM measured_operator WHERE graph_id = $graph GROUP BY node_index
) t USING (node_index)
WHERE n.graph_id = $graph
ORDER BY n.node_index
LIMIT $limit;
