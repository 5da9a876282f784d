-- Every combination of a place (resource, process, instance), a thread and a task that made an event in a time, in the order of
-- the numbers of resource_events.sql.
SELECT DISTINCT resource_id, pid, instance, tid, task FROM (
    SELECT * FROM resource_event WHERE NOT $spelled AND instance IS NOT NULL AND at_ns >= $first AND at_ns < $next
    UNION ALL BY NAME SELECT * FROM spelled_release WHERE $spelled AND at_ns >= $first AND at_ns < $next
) ORDER BY resource_id, pid, instance, tid, task;
