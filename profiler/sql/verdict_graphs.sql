-- Measured graphs with how often and how long they ran (ns), most time first.
SELECT m.graph_id, any_value(g.pid) AS pid, m.phase, count(*) AS executions, sum(m.dur_ns) AS ns,
       coalesce(sum(m.tokens), 0) AS tokens
FROM measured_graph m JOIN graph g USING (graph_id)
GROUP BY m.graph_id, m.phase
ORDER BY ns DESC, m.graph_id;
