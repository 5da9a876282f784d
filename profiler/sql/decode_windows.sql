-- Decode steps per window. A step's time is divided by the median of all steps with as many tokens, so that windows
-- with different batches can be compared; the first step of a window is left out: probes were being switched.
WITH step AS (
    SELECT window_id, level, start_ns, dur_ns, tokens,
           row_number() OVER (PARTITION BY window_id ORDER BY start_ns) AS position
    FROM graph_duration WHERE phase = 'decode' AND dur_ns > 0
), typical AS (
    SELECT tokens, median(dur_ns) AS ns FROM step GROUP BY tokens
)
SELECT w.window_id, w.level, any_value(w.start_ns) AS start_ns, any_value(w.end_ns) AS end_ns,
       count(*) AS steps, median(s.dur_ns / t.ns) AS relative
FROM step s
JOIN typical t ON t.tokens IS NOT DISTINCT FROM s.tokens
JOIN probe_window w ON w.window_id = s.window_id AND w.level = s.level
WHERE s.position > 1
GROUP BY w.window_id, w.level
ORDER BY start_ns;
