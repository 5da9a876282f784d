-- Executions whose operators were recorded, in the order of time; dur_ns within the graph, tokens at least 1.
SELECT e.exec_id, g.phase, e.level, greatest(coalesce(g.tokens, 1), 1) AS tokens, e.start_ns, e.end_ns - e.start_ns AS dur_ns
FROM graph_exec e JOIN graph g USING (graph_id)
WHERE e.end_ns IS NOT NULL AND g.described AND e.level IN ('op', 'thread')
ORDER BY e.start_ns, e.exec_id
