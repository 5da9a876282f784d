-- Between the graphs of one decode step and the next, ns (median): sampling, the server's own work, other phases' graphs.
-- A pause of ten steps or more is an idle server, not a part of a step.
WITH step AS (
    SELECT start_ns, dur_ns, lead(start_ns) OVER (ORDER BY start_ns) - start_ns AS until_next_ns
    FROM graph_duration WHERE phase = 'decode'
)
SELECT median(greatest(until_next_ns - dur_ns, 0)) FROM step
WHERE until_next_ns < 10 * (SELECT median(until_next_ns) FROM step);
