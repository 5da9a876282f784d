-- Every graph execution that ended, in the order of time. gap_ns: since the execution before it in the same process, where
-- that was of the same phase and no pause lay between (ns). A gap is a pause when it is long (as in tpot.sql), unless a
-- request that is known ran on through it: then the server kept it waiting. pause_ns: a long gap of which that is not
-- known, for no request is. n_kv: the context that its attention reads (graph_context), 0 unknown. measured: its operators
-- are known. cells: of them, so many have something in them that a token of the batch reads, on average (n_kv is rounded up,
-- by llama.cpp to 256, and kernels may skip the rest); 0 unknown. level: how deep it was probed, as in graph_exec.
WITH batch AS (  -- as in request_graph
    SELECT b.pid, b.tid, b.at_ns, e.exec_id
    FROM (SELECT DISTINCT pid, tid, at_ns FROM batch_part) b
    ASOF JOIN graph_exec e ON e.pid = b.pid AND e.tid = b.tid AND e.start_ns >= b.at_ns
    QUALIFY row_number() OVER (PARTITION BY e.exec_id ORDER BY b.at_ns DESC) = 1
), filled AS (
    SELECT b.exec_id, sum(p.tokens) AS tokens, sum(p.tokens * (p.position + (p.tokens + 1) / 2)) / sum(p.tokens) AS cells
    FROM batch_part p JOIN batch b ON b.pid = p.pid AND b.tid = p.tid AND b.at_ns = p.at_ns
    GROUP BY b.exec_id
), step AS (
    SELECT e.exec_id, e.graph_id, e.pid, e.level, g.phase, greatest(coalesce(g.tokens, 1), 1) AS tokens, g.described,
           coalesce(c.n_kv, 0) AS n_kv,
           CASE WHEN f.tokens = g.tokens THEN f.cells ELSE 0 END AS cells, e.start_ns, e.end_ns,
           lag(g.phase) OVER process AS before, e.start_ns - lag(e.end_ns) OVER process AS gap_ns
    FROM graph_exec e JOIN graph g USING (graph_id) LEFT JOIN graph_context c USING (graph_id)
         LEFT JOIN filled f USING (exec_id)
    WHERE e.end_ns IS NOT NULL
    WINDOW process AS (PARTITION BY e.pid ORDER BY e.start_ns)
), pause AS (
    SELECT coalesce(greatest(100e6, 4 * median(end_ns - start_ns)), 100e6) AS ns FROM step
    WHERE phase IN ('decode', 'mixed')
), busy AS (  -- a request without an end runs on, where its slot has no later one
    SELECT pid, coalesce(started_ns, posted_ns, 0) AS begin_ns, coalesce(released_ns, end_ns, CASE WHEN lead(pid) OVER
               (PARTITION BY pid, slot ORDER BY coalesce(started_ns, posted_ns, 0)) IS NULL THEN 1::BIGINT << 62 END) AS end_ns
    FROM request
), kept_waiting AS (
    SELECT DISTINCT exec_id
    FROM step JOIN busy ON step.pid = busy.pid AND begin_ns <= start_ns - gap_ns AND busy.end_ns >= start_ns
    WHERE before = phase AND gap_ns > (SELECT ns FROM pause)
)
SELECT exec_id, graph_id, phase, tokens, n_kv, coalesce(cells, 0) AS cells, start_ns, end_ns - start_ns AS dur_ns,
       CASE WHEN before = phase AND gap_ns >= 0 AND (gap_ns <= pause.ns OR exec_id IN (FROM kept_waiting))
            THEN gap_ns END AS gap_ns,
       CASE WHEN before = phase AND gap_ns > pause.ns AND NOT EXISTS (FROM request) THEN gap_ns ELSE 0 END AS pause_ns,
       described AND level IN ('op', 'thread') AS measured, level
FROM step, pause
ORDER BY start_ns, exec_id
