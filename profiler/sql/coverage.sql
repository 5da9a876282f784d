-- How much of every phase was measured at one of the levels $levels: the weights of all estimates. $pid: of one process, or NULL.
SELECT
    phase,
    count(*) AS graphs,
    count(*) FILTER (measured) AS graphs_measured,
    coalesce(sum(tokens), 0) AS tokens,
    coalesce(sum(tokens) FILTER (measured), 0) AS tokens_measured,
    sum(dur_ns) AS total_ns,
    coalesce(sum(dur_ns) FILTER (measured), 0) AS measured_ns
FROM (
    SELECT d.phase, d.tokens, d.dur_ns, g.described AND list_contains($levels, d.level) AS measured
    FROM graph_duration d JOIN graph g USING (graph_id)
    WHERE $pid IS NULL OR d.pid = $pid
)
GROUP BY phase
ORDER BY total_ns DESC;
