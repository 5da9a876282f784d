-- The tensors of some graphs, nodes then leaves; those that are alike in several graphs once, with the graphs.
SELECT node_index, leaf, op, name, type, layer, block, ne, data_bytes, sources, executes, list(graph_id) AS graphs
FROM graph_node WHERE graph_id IN (SELECT unnest($graphs))
GROUP BY ALL ORDER BY leaf, node_index;
