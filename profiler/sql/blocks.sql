-- A block's time per graph execution, from measured graph executions, wall time on the first thread (ns).
SELECT phase, block AS grp, sum(ns) AS ns, quantile_cont(ns, 0.5) AS p50_ns, quantile_cont(ns, 0.99) AS p99_ns
FROM (SELECT exec_id, phase, block, sum(dur_ns) AS ns FROM measured_operator GROUP BY exec_id, phase, block)
GROUP BY phase, block
ORDER BY phase, ns DESC;
