-- What the calls of timeline_calls.sql are; of CUDA's also what each is about: the kernel, the copy, the stream.
SELECT kind, coalesce(name, ''), kernel, direction, host_memory, stream, dims, types, scalars FROM (
    SELECT DISTINCT c.kind, c.name, c.args_id, d.name AS kernel, d.direction, d.host_memory, d.stream
    FROM api_call c LEFT JOIN device_call d USING (call_id)
    WHERE c.kind IN ('operator', 'runtime', 'driver', 'nccl', 'collective') AND c.end_ns IS NOT NULL
) LEFT JOIN api_args USING (args_id)
ORDER BY kind, name, args_id, kernel, direction, host_memory, stream
