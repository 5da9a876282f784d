-- Prefill's copies of experts' weights by tensor: operators that copy what nothing in the graph computes (all sources are
-- leaves), in blocks with experts. ns on the first thread, of the measured graphs; and all measured operators' of prefill.
WITH weights AS (
    SELECT n.graph_id, n.node_index
    FROM graph_node n, unnest(n.sources) AS s(source)
    JOIN graph_node l ON l.graph_id = n.graph_id AND l.node_index = s.source
    WHERE n.block = 'moe' AND n.op IN ('CPY', 'DUP', 'CONT') AND n.executes
    GROUP BY ALL HAVING bool_and(l.leaf)
)
SELECT regexp_replace(m.name, '-[0-9]+( |$)', '\1') AS tensor, count(*) AS calls, sum(m.dur_ns)::BIGINT AS ns,
       (SELECT sum(dur_ns)::BIGINT FROM measured_operator WHERE phase = 'prefill') AS all_ns
FROM measured_operator m JOIN weights w ON w.graph_id = m.graph_id AND w.node_index = m.node_index
WHERE m.phase = 'prefill'
GROUP BY tensor ORDER BY ns DESC LIMIT 20
