-- Every decode step of a described graph, with the length of the context that its attention reads.
-- attention_ns: time of what reads the cache, on the first thread, of measured steps (NULL otherwise).
WITH reading AS (
    SELECT exec_id, sum(dur_ns) AS ns FROM measured_operator
    WHERE phase = 'decode' AND block = 'attention' AND (
        op IN ('FLASH_ATTN_EXT', 'SOFT_MAX') OR op = 'MUL_MAT' AND regexp_matches(name, '^kqv?(-\d+)?$')
    )
    GROUP BY exec_id
)
SELECT d.start_ns, d.level, d.tokens, c.n_kv, d.dur_ns, r.ns AS attention_ns
FROM graph_duration d
JOIN graph g USING (graph_id)
JOIN graph_context c USING (graph_id)
LEFT JOIN reading r USING (exec_id)
WHERE d.phase = 'decode' AND g.described AND d.dur_ns > 0 AND d.tokens > 0 AND c.n_kv > 0
ORDER BY d.start_ns;
