-- Every operator with its parent and what it is (`what_id`, an operator's name with one set of arguments).
WITH what AS (
    SELECT name, args_id, row_number() OVER (ORDER BY name, args_id) - 1 AS what_id
    FROM (SELECT DISTINCT name, args_id FROM api_call WHERE kind = 'operator')
)
SELECT c.call_id, coalesce(c.parent_id, -1) AS parent_id, w.what_id
FROM api_call c JOIN what w ON w.name = c.name AND w.args_id IS NOT DISTINCT FROM c.args_id
WHERE c.kind = 'operator' ORDER BY c.call_id
