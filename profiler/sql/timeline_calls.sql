-- Calls on the host for the timeline, the $limit longest, row by row: thread, depth, start. what: place in
-- timeline_call_whats.sql. total: of all. Annotations and Python frames are left out.
WITH known AS (
    SELECT pid, tid, coalesce(depth, 0) AS depth, start_ns, end_ns, call_id,
           dense_rank() OVER (ORDER BY kind, name, args_id) - 1 AS what
    FROM api_call WHERE kind IN ('operator', 'runtime', 'driver', 'nccl') AND end_ns IS NOT NULL
)
SELECT * EXCLUDE (rank) FROM (
    SELECT *, count(*) OVER () AS total, row_number() OVER (ORDER BY end_ns - start_ns DESC, start_ns) AS rank FROM known
)
WHERE rank <= $limit
ORDER BY pid, tid, depth, start_ns
