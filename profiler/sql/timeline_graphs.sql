-- Graph executions for the timeline, evenly thinned to $limit, in order of their start. NULL ends: not seen to end.
SELECT exec_id, pid, graph_id, level, start_ns, end_ns, phase, tokens FROM (
    SELECT e.exec_id, e.pid, e.graph_id, e.level, e.start_ns, coalesce(e.end_ns, e.start_ns) AS end_ns,
           coalesce(g.phase, 'other') AS phase, coalesce(g.tokens, 0) AS tokens,
           row_number() OVER (ORDER BY e.start_ns) - 1 AS position, count(*) OVER () AS count
    FROM graph_exec e LEFT JOIN graph g USING (graph_id)
)
WHERE count <= $limit OR position % ceil(count / $limit)::BIGINT = 0
ORDER BY pid, start_ns;
