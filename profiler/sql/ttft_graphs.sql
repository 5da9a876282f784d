-- Without the server's requests: a prompt takes from the start of its first prefill graph to the end of its last (ns).
WITH step AS (
    SELECT e.pid, g.phase, e.start_ns, e.end_ns,
           g.phase = 'prefill' AND coalesce(lag(g.phase) OVER process, '') <> 'prefill' AS begins
    FROM graph_exec e JOIN graph g USING (graph_id)
    WHERE e.end_ns IS NOT NULL
    WINDOW process AS (PARTITION BY e.pid ORDER BY e.start_ns)
), numbered AS (
    SELECT pid, phase, start_ns, end_ns, count(*) FILTER (begins) OVER (PARTITION BY pid ORDER BY start_ns) AS prompt
    FROM step
), prompt AS (
    SELECT max(end_ns) - min(start_ns) AS ns FROM numbered WHERE phase = 'prefill' GROUP BY pid, prompt
)
SELECT count(*) AS prompts, quantile_cont(ns, 0.5) AS p50_ns, quantile_cont(ns, 0.99) AS p99_ns FROM prompt;
