-- Events of resources until $last (ns), each with the number of who and where it is of: as in resource_actors.sql.
WITH alike AS MATERIALIZED (FROM equal_stack), who AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY resource_id, pid, instance, tid, task) - 1 AS number
    FROM (SELECT DISTINCT resource_id, pid, instance, tid, task FROM resource_step)
)
SELECT at_ns,
       (CASE event WHEN 'wait' THEN 0 WHEN 'acquire' THEN 1 WHEN 'use' THEN 2 WHEN 'release' THEN 3 ELSE 4 END)::TINYINT AS kind,
       number::INTEGER AS number, unit IS NOT NULL AS has_unit, coalesce(unit, 0) AS unit,
       least(greatest(coalesce(units, 1), 0), 274877906944) AS units,
       coalesce(a.first_id, e.stack_id, -1)::INTEGER AS stack, (CASE WHEN holder IN (SELECT tid FROM thread UNION SELECT tid FROM resource_event) THEN holder ELSE 0 END)::INTEGER
           AS holder  -- a word that is taken for an owner names a thread, or means something else
FROM resource_step e
LEFT JOIN alike a ON a.stack_id = e.stack_id
JOIN who w ON w.resource_id IS NOT DISTINCT FROM e.resource_id AND w.pid IS NOT DISTINCT FROM e.pid
          AND w.instance IS NOT DISTINCT FROM e.instance AND w.tid IS NOT DISTINCT FROM e.tid
          AND w.task IS NOT DISTINCT FROM e.task
WHERE at_ns BETWEEN 0 AND $last AND event IN ('wait', 'acquire', 'use', 'release', 'give-up');
