-- Time per output token: from the end of one decode step to the end of the next in the same process (ns).
-- A gap between two steps that is longer than 100 ms and four median steps is a pause between requests, not a token.
WITH step AS (
    SELECT g.phase, e.start_ns, e.end_ns,
           lag(g.phase) OVER process AS before,
           lag(e.end_ns) OVER process AS before_end_ns
    FROM graph_exec e JOIN graph g USING (graph_id)
    WHERE e.end_ns IS NOT NULL
    WINDOW process AS (PARTITION BY e.pid ORDER BY e.start_ns)
), pause AS (
    SELECT greatest(100e6, 4 * median(end_ns - start_ns)) AS ns FROM step WHERE phase IN ('decode', 'mixed')
)
SELECT count(*) AS steps,
       quantile_cont(end_ns - before_end_ns, 0.5) AS p50_ns,
       quantile_cont(end_ns - before_end_ns, 0.99) AS p99_ns
FROM step, pause
WHERE phase IN ('decode', 'mixed') AND before IN ('decode', 'mixed') AND start_ns - before_end_ns <= pause.ns;
