-- Per phase the described graphs with the most measured time, at most $most: what the graph view shows.
SELECT
    phase, graph_id, pid, n_kv,                -- n_kv: cache rows that attention reads, NULL unknown
    executions, tokens, ns,                    -- of that graph: measured executions, their tokens, their time (ns)
    graphs, phase_executions, phase_ns         -- of all measured graphs of the phase
FROM (
    SELECT phase, graph_id, count(*) AS executions, coalesce(sum(tokens), 0) AS tokens, sum(dur_ns) AS ns,
           count(*) OVER of_phase AS graphs, sum(count(*)) OVER of_phase AS phase_executions,
           sum(sum(dur_ns)) OVER of_phase AS phase_ns
    FROM measured_graph GROUP BY phase, graph_id
    WINDOW of_phase AS (PARTITION BY phase)
)
JOIN (SELECT graph_id, pid FROM graph) USING (graph_id)
LEFT JOIN graph_context USING (graph_id)
QUALIFY row_number() OVER (PARTITION BY phase ORDER BY ns DESC, graph_id) <= $most
ORDER BY phase_ns DESC, phase, ns DESC, graph_id;
