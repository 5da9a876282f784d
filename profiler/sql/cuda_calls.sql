-- Calls of CUDA's (or HIP's) and NCCL's functions, by process, thread and start: what each was about. From device_call; an
-- import tells it by the function's name and by the GPU work that the call caused. $codes: what, as the analyzer numbers it.
WITH named AS (
    SELECT name, row_number() OVER (ORDER BY name) - 1 AS api_id,
        CASE WHEN contains(name, 'GraphLaunch') THEN 'graph_launch'
             WHEN contains(name, 'GraphInstantiate') THEN 'graph_instantiate'
             WHEN contains(name, 'Launch') AND NOT contains(name, 'LaunchHostFunc') THEN 'launch'
             WHEN contains(name, 'StreamBeginCapture') THEN 'capture_begin'
             WHEN contains(name, 'StreamEndCapture') THEN 'capture_end'
             WHEN contains(name, 'Memcpy') THEN 'copy'
             WHEN contains(name, 'Memset') THEN 'memset'
             WHEN contains(name, 'Synchronize') THEN 'synchronize'
             WHEN contains(name, 'EventRecord') THEN 'event_record'
             WHEN contains(name, 'StreamWaitEvent') THEN 'event_wait'
             WHEN contains(name, 'EventQuery') THEN 'event_query'
             WHEN regexp_matches(name, 'Malloc|MemAlloc|HostAlloc') THEN 'allocate'
             WHEN regexp_matches(name, '^(cuda|hip)Free|MemFree') THEN 'free'
        END AS what
    FROM (SELECT DISTINCT name FROM api_call WHERE kind IN ('runtime', 'driver', 'nccl'))
), caused AS (
    SELECT launch_id AS call_id, min(stream) AS stream, sum(bytes)::BIGINT AS bytes, min(direction) AS direction,
        min(host_memory) AS host_memory, min(name) FILTER (kind IN ('kernel', 'collective')) AS name
    FROM gpu_work WHERE launch_id IS NOT NULL GROUP BY launch_id
), kernel AS (
    SELECT name, row_number() OVER (ORDER BY name) - 1 AS kernel_id FROM (
        SELECT name FROM device_call WHERE name IS NOT NULL UNION SELECT name FROM caused WHERE name IS NOT NULL
    )
), call AS (
    SELECT c.pid, c.tid, c.kind, n.api_id, c.start_ns, c.end_ns, coalesce(d.what, n.what) AS what,
        coalesce(d.stream, g.stream) AS stream, coalesce(d.bytes, g.bytes) AS bytes,
        coalesce(d.direction, g.direction) AS direction, coalesce(d.host_memory, g.host_memory) AS host_memory,
        coalesce(d.name, g.name) AS kernel_name, (hash(d.grid, d.block) % 2147483648)::INTEGER AS grid_id, d.address, d.graph,
        d.result
    FROM api_call c JOIN named n USING (name)
    LEFT JOIN device_call d USING (call_id)
    LEFT JOIN caused g USING (call_id)
    WHERE c.kind IN ('runtime', 'driver', 'nccl') AND c.end_ns IS NOT NULL
), recorded AS (
    SELECT pid, address, stream, start_ns, end_ns FROM call WHERE what = 'event_record' AND coalesce(result, 0) = 0
)
SELECT c.pid, coalesce(c.tid, -1) AS tid, c.start_ns, c.end_ns,
    CASE c.kind WHEN 'runtime' THEN 0 WHEN 'driver' THEN 1 ELSE 2 END::TINYINT AS kind,
    (list_position($codes, c.what) - 1)::TINYINT AS what, c.api_id::INTEGER AS api_id, c.stream, c.bytes,
    (coalesce(list_position(['HtoD', 'DtoH', 'DtoD', 'HtoH'], c.direction), 0))::TINYINT AS direction,
    (coalesce(list_position(['pageable', 'pinned'], c.host_memory), 0))::TINYINT AS host_memory,
    c.address, c.graph, coalesce(k.kernel_id, -1)::INTEGER AS kernel_id, c.grid_id, coalesce(c.result, -1) AS result,            -- -1: not known
    r.stream AS recorded_stream,               -- of calls about an event: where it was recorded last
    r.start_ns AS recorded_ns                  -- and when that call began
FROM call c
ASOF LEFT JOIN recorded r ON c.pid = r.pid AND c.address = r.address AND c.start_ns >= r.end_ns
LEFT JOIN kernel k ON k.name = c.kernel_name
WHERE list_contains($codes, c.what)
ORDER BY c.pid, c.tid, c.start_ns
