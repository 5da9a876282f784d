-- Every combination of a place (resource, process, instance), a thread and a task that made an event, in the order of the
-- numbers of resource_events.sql.
SELECT resource_id, coalesce(pid, 0), coalesce(instance, 0), coalesce(tid, 0), task
FROM (SELECT DISTINCT resource_id, pid, instance, tid, task FROM resource_step) w
ORDER BY w.resource_id, w.pid, w.instance, w.tid, w.task;
