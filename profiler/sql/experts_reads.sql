-- Reads of experts of which all ids are known, in order of time: the number of the layer (of pid, phase, layer, experts),
-- the layer's tokens before it, and its run: a row of executions of the phase without one in between of which ids are missing.
WITH execs AS (
    SELECT d.exec_id, g.pid, d.phase, d.start_ns,
           row_number() OVER (PARTITION BY g.pid, d.phase ORDER BY d.start_ns) AS number
    FROM graph_duration d JOIN graph g USING (graph_id)
)
SELECT r.exec_id, r.node_index, r.uses, r.tokens, r.pid, r.phase, r.layer, r.experts,
       dense_rank() OVER (ORDER BY r.pid, r.phase, r.layer, r.experts) - 1 AS number,
       coalesce(sum(r.tokens) OVER (PARTITION BY r.pid, r.phase, r.layer, r.experts ORDER BY e.number, r.node_index
                                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::BIGINT AS before,
       e.number - row_number() OVER (PARTITION BY r.pid, r.phase, r.layer, r.experts ORDER BY e.number, r.node_index) AS run
FROM expert_read r JOIN execs e USING (exec_id)
WHERE r.uses = r.used * r.tokens
ORDER BY r.start_ns, r.exec_id, r.node_index;
