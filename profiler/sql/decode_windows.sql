-- Decode steps per window. To a deep window belong those, too, that ran while its probes were placed and taken off: that
-- is part of its price. A step's time is divided by the median of all steps with as many tokens, so that windows with
-- different batches can be compared. The mean, for what a few steps pay counts; but what takes three times as long as
-- usual was stopped by something else.
WITH step AS (
    SELECT start_ns, start_ns + dur_ns AS end_ns, dur_ns, tokens
    FROM graph_duration WHERE phase = 'decode' AND dur_ns > 0
), typical AS (
    SELECT tokens, median(dur_ns) AS ns FROM step GROUP BY tokens
), placed AS (
    SELECT CASE WHEN begun.level = 'token' AND ended.level <> 'token' THEN ended.window_id ELSE begun.window_id END AS id,
           least(s.dur_ns / t.ns, 3.0) AS relative
    FROM step s
    JOIN typical t ON t.tokens IS NOT DISTINCT FROM s.tokens
    ASOF JOIN window_span begun ON s.start_ns >= begun.from_ns
    ASOF JOIN window_span ended ON s.end_ns >= ended.from_ns
)
SELECT window_id, level, start_ns, end_ns, count(*) AS steps, avg(relative) AS relative
FROM window_span JOIN placed ON id = window_id
GROUP BY ALL ORDER BY start_ns;
