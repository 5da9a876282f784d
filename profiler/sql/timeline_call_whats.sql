-- What the calls of timeline_calls.sql are.
SELECT kind, coalesce(name, ''), dims, types, scalars FROM (
    SELECT DISTINCT kind, name, args_id FROM api_call
    WHERE kind IN ('operator', 'runtime', 'driver', 'nccl') AND end_ns IS NOT NULL
) LEFT JOIN api_args USING (args_id)
ORDER BY kind, name, args_id
