-- All graph executions that were seen to end, by phase. Times in ns.
SELECT phase, coalesce(sum(tokens), 0) AS tokens, count(*) AS graphs, sum(dur_ns) AS total_ns,
       quantile_cont(dur_ns, 0.5) AS p50_ns, quantile_cont(dur_ns, 0.99) AS p99_ns
FROM graph_duration
GROUP BY phase
ORDER BY total_ns DESC;
