-- Events of resources from $first until before $next (ns), with 0 for what is not told. $spelled: only the releases of all
-- that a thread has, spelled out; else the others.
SELECT at_ns,
       (CASE event WHEN 'wait' THEN 0 WHEN 'acquire' THEN 1 WHEN 'use' THEN 2 WHEN 'release' THEN 3 ELSE 4 END)::TINYINT AS kind,
       resource_id, coalesce(pid, 0)::INTEGER AS pid, instance, coalesce(tid, 0)::INTEGER AS tid,
       task IS NOT NULL AS has_task, coalesce(task, 0) AS task,
       unit IS NOT NULL AS has_unit, coalesce(unit, 0) AS unit,
       least(greatest(coalesce(units, 1), 0), 274877906944) AS units,
       coalesce(stack_id, -1)::INTEGER AS stack, coalesce(holder, 0)::INTEGER AS holder
FROM (
    SELECT * FROM resource_event WHERE NOT $spelled AND instance IS NOT NULL AND at_ns >= $first AND at_ns < $next
    UNION ALL BY NAME SELECT * FROM spelled_release WHERE $spelled AND at_ns >= $first AND at_ns < $next
)
WHERE event IN ('wait', 'acquire', 'use', 'release', 'give-up') AND resource_id IN (SELECT resource_id FROM resource);
