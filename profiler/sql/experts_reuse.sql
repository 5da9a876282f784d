-- Tokens from one use of an expert to its next one in the layer, counted; distance NULL: its first use in a run. A run is a
-- row of executions of the phase without one in between of which ids are missing.
WITH execs AS (
    SELECT d.exec_id, g.pid, d.phase, d.start_ns,
           row_number() OVER (PARTITION BY g.pid, d.phase ORDER BY d.start_ns) AS number
    FROM graph_duration d JOIN graph g USING (graph_id)
), reads AS (
    SELECT r.*, e.number - row_number() OVER (PARTITION BY r.pid, r.phase, r.layer, r.experts ORDER BY e.number) AS run,
           coalesce(sum(r.tokens) OVER (PARTITION BY r.pid, r.phase, r.layer, r.experts ORDER BY e.number
                                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
    FROM expert_read r JOIN execs e USING (exec_id)
    WHERE r.uses = r.used * r.tokens
), uses AS (
    SELECT r.pid, r.phase, r.layer, r.experts, r.before + u.token
           - lag(r.before + u.token) OVER (PARTITION BY r.pid, r.phase, r.layer, r.experts, r.run, u.expert
                                           ORDER BY r.before + u.token) AS distance
    FROM expert_use u JOIN reads r USING (exec_id, node_index)
)
SELECT pid, phase, layer, experts, distance, count(*) AS uses FROM uses
GROUP BY ALL ORDER BY pid, phase, layer, experts, distance NULLS FIRST;
