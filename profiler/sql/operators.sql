-- Operators by name, block and phase, from measured graph executions, wall time on the first thread (ns).
WITH by_group AS (
    SELECT phase, op, block, count(*) AS calls, sum(dur_ns) AS ns,
           quantile_cont(dur_ns, [0.5, 0.99]) AS quantiles
    FROM measured_operator GROUP BY phase, op, block
), by_tensor AS (  -- one tensor over all its calls: the layers' numbers stay apart
    SELECT phase, op, block, name, sum(dur_ns) AS ns, avg(dur_ns) AS mean_ns
    FROM measured_operator GROUP BY phase, op, block, name
)
SELECT g.phase, g.op, g.block, g.calls, g.ns, g.quantiles[1] AS p50_ns, g.quantiles[2] AS p99_ns,
       first(t.name ORDER BY t.ns DESC, t.name) AS top_tensor,
       first(t.mean_ns ORDER BY t.ns DESC, t.name) AS top_tensor_ns  -- of equal ones always the same
FROM by_group g JOIN by_tensor t
  ON t.phase = g.phase AND t.op IS NOT DISTINCT FROM g.op AND t.block IS NOT DISTINCT FROM g.block
GROUP BY ALL
ORDER BY g.phase, g.ns DESC, g.op, g.block;
