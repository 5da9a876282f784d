-- Calls on the host for the timeline, the $limit longest, row by row: thread, depth, start. what: place in
-- timeline_call_whats.sql. total: of all. Annotations and Python frames are left out.
WITH known AS (
    SELECT c.pid, c.tid, coalesce(c.depth, 0) AS depth, c.start_ns, c.end_ns, c.call_id,
           dense_rank() OVER (ORDER BY c.kind, c.name, c.args_id, d.name, d.direction, d.host_memory, d.stream) - 1 AS what
    FROM api_call c LEFT JOIN device_call d USING (call_id)
    WHERE c.kind IN ('operator', 'runtime', 'driver', 'nccl', 'collective') AND c.end_ns IS NOT NULL
)
SELECT * EXCLUDE (rank) FROM (
    SELECT *, count(*) OVER () AS total, row_number() OVER (ORDER BY end_ns - start_ns DESC, start_ns) AS rank FROM known
)
WHERE rank <= $limit
ORDER BY pid, tid, depth, start_ns
