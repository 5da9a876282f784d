-- Events of resources from $first until before $next (ns), each with the number of who and where it is of: as in
-- resource_actors.sql of the same time. $spelled: only the releases of all that a thread has, spelled out; else the others.
WITH part AS MATERIALIZED (
    SELECT * FROM resource_event WHERE NOT $spelled AND instance IS NOT NULL AND at_ns >= $first AND at_ns < $next
    UNION ALL BY NAME SELECT * FROM spelled_release WHERE $spelled AND at_ns >= $first AND at_ns < $next
), who AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY resource_id, pid, instance, tid, task) - 1 AS number
    FROM (SELECT DISTINCT resource_id, pid, instance, tid, task FROM part)
)
SELECT at_ns,
       (CASE event WHEN 'wait' THEN 0 WHEN 'acquire' THEN 1 WHEN 'use' THEN 2 WHEN 'release' THEN 3 ELSE 4 END)::TINYINT AS kind,
       number::INTEGER AS number, unit IS NOT NULL AS has_unit, coalesce(unit, 0) AS unit,
       least(greatest(coalesce(units, 1), 0), 274877906944) AS units,
       coalesce(stack_id, -1)::INTEGER AS stack, coalesce(holder, 0)::INTEGER AS holder
FROM part e
JOIN who w ON w.resource_id IS NOT DISTINCT FROM e.resource_id AND w.pid IS NOT DISTINCT FROM e.pid
          AND w.instance IS NOT DISTINCT FROM e.instance AND w.tid IS NOT DISTINCT FROM e.tid
          AND w.task IS NOT DISTINCT FROM e.task
WHERE event IN ('wait', 'acquire', 'use', 'release', 'give-up');
