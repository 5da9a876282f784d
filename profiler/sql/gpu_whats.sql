-- What operators are, by what_id as in gpu_operators.sql.
SELECT w.name, a.dims, a.types, a.scalars
FROM (SELECT DISTINCT name, args_id FROM api_call WHERE kind = 'operator') w LEFT JOIN api_args a USING (args_id)
ORDER BY w.name, w.args_id
