-- Batches of prefill that ran while another request of the same process was between its first and its last token (none:
-- it was not done when the recording ended): count, ns, tokens; and what to compare with: ns and sequences of a decode
-- step (medians), ns a token of prefill. Graphs of prefill that follow each other, or a mixed one, are one batch, which the
-- engine computes in parts; those of a few tokens are steps of decode with a token of the prompt.
WITH ran AS (
    SELECT e.pid, e.start_ns, e.end_ns, g.phase, g.tokens, coalesce(g.outputs, g.tokens, 1) AS sequences,
           g.phase = 'mixed' OR g.phase = 'prefill' AND g.tokens >= 32 AS prompt
    FROM graph_exec e JOIN graph g USING (graph_id)
    WHERE e.end_ns IS NOT NULL
), placed AS (
    SELECT *, coalesce(lag(prompt) OVER (PARTITION BY pid ORDER BY start_ns), false) AS goes_on FROM ran
), alone AS (
    SELECT p.* FROM placed p
    WHERE p.phase = 'prefill' AND p.prompt AND EXISTS (
        SELECT 1 FROM request r
        WHERE r.pid = p.pid AND r.results > 1 AND r.first_result_ns < p.start_ns
          AND coalesce(r.end_ns > p.end_ns, true))
)
SELECT (SELECT count(*) FROM ran WHERE phase = 'mixed') AS both,
       (SELECT count(*) FROM alone WHERE NOT goes_on) AS batches,
       (SELECT coalesce(sum(end_ns - start_ns), 0)::BIGINT FROM alone) AS ns,
       (SELECT coalesce(sum(tokens), 0)::BIGINT FROM alone) AS tokens,
       (SELECT median(end_ns - start_ns) FROM ran WHERE phase = 'decode') AS step_ns,
       (SELECT median(sequences) FROM ran WHERE phase = 'decode') AS sequences,
       (SELECT sum(end_ns - start_ns) / nullif(sum(tokens), 0) FROM ran WHERE phase = 'prefill' AND prompt) AS token_ns,
       (SELECT coalesce(sum(end_ns - start_ns), 0)::BIGINT FROM ran) AS all_ns
