-- Slices of work from $from_ns on, by start, with the call that launched each. `name` numbers kernels' names (gpu_slice).
-- pageable: asynchronous copies from or to pageable memory; others the program may take for an order.
-- flag: of the stream: 1 the default stream, 2 it waits for that, and that for it, 3 it does not; 0: not known.
-- memory_kind: 1 inside the device, 2 between devices, 3 to the device, 4 to the host; 0: no copy, or not known.
WITH named AS (SELECT name, row_number() OVER (ORDER BY name) - 1 AS name_id FROM (SELECT DISTINCT name FROM gpu_slice))
SELECT coalesce(w.device, -1) AS device, coalesce(w.stream, -1) AS stream,
       (CASE w.kind WHEN 'collective' THEN 1 WHEN 'copy' THEN 2 WHEN 'memset' THEN 3 WHEN 'graph' THEN 4 ELSE 0 END)::TINYINT
           AS kind,
       (CASE w.direction WHEN 'DtoD' THEN 1 WHEN 'PtoP' THEN 2 WHEN 'HtoD' THEN 3 WHEN 'DtoH' THEN 4 ELSE 0 END)::TINYINT
           AS memory_kind,
       coalesce(w.host_memory = 'pageable' AND contains(w.launch, 'Async'), false) AS pageable,
       coalesce(n.name_id, -1)::INTEGER AS name_id, w.start_ns, w.start_ns + w.dur_ns AS end_ns,
       coalesce(w.launch_id, -1) AS launch_id, coalesce(w.launch_ns, 0) AS launch_ns, coalesce(c.end_ns, 0) AS launched_ns,
       coalesce(c.pid, -1) AS pid, coalesce(c.tid, -1) AS tid, coalesce(w.operator_id, -1) AS operator_id,
       w.in_graph,
       (CASE f.flag WHEN 'null' THEN 1 WHEN 'blocking' THEN 2 WHEN 'non-blocking' THEN 3 ELSE 0 END)::TINYINT AS flag
FROM gpu_work w LEFT JOIN named n USING (name) LEFT JOIN api_call c ON c.call_id = w.launch_id
LEFT JOIN (SELECT pid, stream, any_value(flag) AS flag FROM gpu_stream GROUP BY pid, stream) f
    ON f.pid = w.pid AND f.stream = w.stream
WHERE w.start_ns >= $from_ns
ORDER BY w.start_ns
