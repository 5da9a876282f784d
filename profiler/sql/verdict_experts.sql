-- Different experts that an expert operator read per call, where all ids were recorded; those with the same ids share them.
SELECT n.graph_id, n.node_index, r.experts
FROM (
    SELECT graph_id, ids_index, avg(distinct_experts) AS experts
    FROM expert_read WHERE uses = used * tokens GROUP BY ALL
) r JOIN graph_node n ON n.graph_id = r.graph_id AND n.sources[3] = r.ids_index
WHERE n.op IN ('MUL_MAT_ID', 'ADD_ID');
