-- Samples of variables $numbers, the first $limit; thread: -1 where it is read from outside. Unreadable ones are left out.
SELECT at_ns, coalesce(tid, -1) AS thread, value
FROM variable_sample
WHERE list_contains($numbers, variable_id) AND value IS NOT NULL AND at_ns IS NOT NULL AND isfinite(value)
ORDER BY at_ns LIMIT $limit
