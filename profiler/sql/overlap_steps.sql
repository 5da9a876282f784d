-- From the end of one decode step to the beginning of the next in the same process, no other graph between (ns): what the
-- program does meanwhile. `pause.ns` and above is a pause between requests (as in tpot.sql). chosen_ns: when the server
-- had chosen the last slot's token, batch_ns: when llama.cpp took the next batch, both in the gap; NULL: not seen.
WITH step AS (
    SELECT e.pid, e.tid, g.phase, coalesce(g.outputs, g.tokens, 1) AS sequences, e.start_ns, e.end_ns,
           lag(g.phase) OVER process AS before, lag(e.end_ns) OVER process AS before_end_ns
    FROM graph_exec e JOIN graph g USING (graph_id)
    WHERE e.end_ns IS NOT NULL
    WINDOW process AS (PARTITION BY e.pid ORDER BY e.start_ns)
), pause AS (
    SELECT greatest(100e6, 4 * median(end_ns - start_ns)) AS ns FROM step WHERE phase = 'decode'
), gap AS (
    SELECT pid, coalesce(tid, pid) AS tid, sequences, before_end_ns, start_ns, end_ns
    FROM step, pause
    WHERE phase = 'decode' AND before = 'decode' AND start_ns >= before_end_ns AND start_ns - before_end_ns <= pause.ns
), taken AS (
    SELECT g.*, CASE WHEN b.at_ns >= g.before_end_ns THEN b.at_ns END AS batch_ns
    FROM gap g ASOF LEFT JOIN batch_part b ON b.pid = g.pid AND b.tid = g.tid AND b.at_ns <= g.start_ns
)
SELECT g.*, CASE WHEN t.at_ns >= g.before_end_ns THEN t.at_ns END AS chosen_ns
FROM taken g ASOF LEFT JOIN slot_token t ON t.pid = g.pid AND t.at_ns <= g.batch_ns
ORDER BY g.pid, g.start_ns
