-- GPU work for the timeline, the $limit longest slices, stream by stream in order of start. what: place in
-- timeline_slice_whats.sql. launch: call_id of the call that launched it, -1: not known. total: of all.
WITH known AS (
    SELECT device, coalesce(stream, 0) AS stream, start_ns, start_ns + dur_ns AS end_ns, coalesce(launch_id, -1) AS launch,
           dense_rank() OVER (ORDER BY kind, name) - 1 AS what
    FROM gpu_work WHERE dur_ns IS NOT NULL
)
SELECT * EXCLUDE (rank) FROM (
    SELECT *, count(*) OVER () AS total, row_number() OVER (ORDER BY end_ns - start_ns DESC, start_ns) AS rank FROM known
)
WHERE rank <= $limit
ORDER BY device, stream, start_ns
