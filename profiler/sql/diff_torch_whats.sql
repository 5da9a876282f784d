-- What the calls of diff_torch_calls.sql are, by what_id.
SELECT w.name, a.dims, a.types, a.scalars
FROM (
    SELECT DISTINCT name, args_id FROM api_call
    WHERE kind = 'operator' OR (kind = 'runtime' AND contains(name, 'Synchronize') AND end_ns IS NOT NULL)
) w LEFT JOIN api_args a USING (args_id)
ORDER BY w.name, w.args_id
