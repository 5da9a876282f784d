-- Per phase the described graph with the most measured time: what the graph view shows.
SELECT
    phase, graph_id, executions, tokens, ns,   -- of that graph: measured executions, their tokens, their time (ns)
    graphs, phase_executions, phase_ns         -- of all measured graphs of the phase
FROM (
    SELECT phase, graph_id, count(*) AS executions, coalesce(sum(tokens), 0) AS tokens, sum(dur_ns) AS ns,
           count(*) OVER of_phase AS graphs, sum(count(*)) OVER of_phase AS phase_executions,
           sum(sum(dur_ns)) OVER of_phase AS phase_ns
    FROM measured_graph GROUP BY phase, graph_id
    WINDOW of_phase AS (PARTITION BY phase)
)
QUALIFY row_number() OVER (PARTITION BY phase ORDER BY ns DESC, graph_id) = 1
ORDER BY phase_ns DESC, phase;
