-- What the slices of timeline_slices.sql are.
SELECT DISTINCT kind, coalesce(name, '') AS name FROM gpu_slice
WHERE kind NOT IN ('annotation', 'sync') AND end_ns IS NOT NULL
ORDER BY kind, name
