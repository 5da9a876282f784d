-- Slices of work from $from_ns on, by start; `named` numbers their names.
WITH named AS (SELECT name, row_number() OVER (ORDER BY name) - 1 AS name_id FROM (SELECT DISTINCT name FROM gpu_slice))
SELECT coalesce(w.device, -1) AS device, coalesce(w.stream, -1) AS stream,
       CASE w.kind WHEN 'collective' THEN 1 WHEN 'copy' THEN 2 WHEN 'memset' THEN 3 WHEN 'graph' THEN 4 ELSE 0 END AS kind,
       coalesce(n.name_id, -1) AS name_id, w.start_ns, w.dur_ns, coalesce(w.launch_id, -1) AS launch_id,
       w.launch_ns, w.in_graph, coalesce(w.operator_id, -1) AS operator_id
FROM gpu_work w LEFT JOIN named n USING (name)
WHERE w.start_ns >= $from_ns
ORDER BY w.start_ns
