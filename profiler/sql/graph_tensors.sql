-- One graph's tensors, nodes then leaves.
SELECT node_index, leaf, op, name, type, layer, block, ne, data_bytes, sources, executes
FROM graph_node WHERE graph_id = $graph ORDER BY leaf, node_index;
