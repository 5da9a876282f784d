-- Every execution of a graph, by process and in order of time.
SELECT pid, graph_id, start_ns, start_ns + dur_ns AS end_ns, coalesce(tokens, 0) AS tokens
FROM graph_duration ORDER BY pid, start_ns;
