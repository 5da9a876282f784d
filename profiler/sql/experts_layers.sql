-- Every layer of experts by phase: what it is, how much of it was read, and the bytes of one expert (all its matrices).
WITH weights AS (
    SELECT graph_id, ids_index, sum(expert_bytes) AS expert_bytes FROM (
        SELECT n.graph_id, n.sources[3] AS ids_index, w.data_bytes / greatest(w.ne[3], 1) AS expert_bytes
        FROM graph_node n JOIN graph_node w ON w.graph_id = n.graph_id AND w.node_index = n.sources[1]
        WHERE n.op = 'MUL_MAT_ID'
    ) GROUP BY ALL
)
SELECT r.pid, r.phase, r.layer, r.experts, r.used, w.expert_bytes,
       count(*) AS executions, sum(r.uses) AS uses, sum(r.tokens) AS tokens,
       count(*) FILTER (r.uses = r.used * r.tokens) AS whole,
       sum(r.tokens) FILTER (r.uses = r.used * r.tokens) AS whole_tokens,
       sum(r.distinct_experts) FILTER (r.uses = r.used * r.tokens) AS distinct_experts,
       sum(r.experts * (1 - power(1 - least(r.used / r.experts, 1), r.tokens))) FILTER (r.uses = r.used * r.tokens)
           AS uniform_experts
FROM expert_read r JOIN weights w USING (graph_id, ids_index)
WHERE r.used > 0
GROUP BY ALL
ORDER BY r.pid, r.phase, r.layer, r.experts
LIMIT 2000;  -- of a model with 100 layers, and four phases, five processes

