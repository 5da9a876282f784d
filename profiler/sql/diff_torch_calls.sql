-- Operators of torch, and waits for a device, by process, thread and start: what each is (`what_id` as in
-- diff_torch_whats.sql). end_ns -1: it did not return. backward: called by the engine of backward passes itself.
WITH mine AS (
    SELECT * FROM api_call
    WHERE kind = 'operator' OR (kind = 'runtime' AND contains(name, 'Synchronize') AND end_ns IS NOT NULL)
), what AS (
    SELECT name, args_id, row_number() OVER (ORDER BY name, args_id) - 1 AS what_id
    FROM (SELECT DISTINCT name, args_id FROM mine)
), engine AS (
    SELECT call_id FROM torch_region JOIN api_call USING (call_id) WHERE backward AND kind = 'annotation'
)
SELECT c.call_id, coalesce(c.parent_id, -1) AS parent_id, coalesce(c.pid, -1) AS pid, coalesce(c.tid, -1) AS tid,
       w.what_id, c.start_ns, coalesce(c.end_ns, -1) AS end_ns, e.call_id IS NOT NULL AS backward
FROM mine c JOIN what w ON w.name = c.name AND w.args_id IS NOT DISTINCT FROM c.args_id
LEFT JOIN engine e ON e.call_id = c.parent_id
ORDER BY c.pid, c.tid, c.start_ns, coalesce(c.depth, 0), c.call_id
