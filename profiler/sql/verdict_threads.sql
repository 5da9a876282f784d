-- Threads of each process's pool. Without thread windows only the first one was seen: then those of the process that used
-- half of its processor time or more, for a pool's threads spin at barriers (where they sleep there, fewer are counted).
WITH seen AS (
    SELECT pid, max(ith) + 1 AS threads, any_value(tid) FILTER (ith = 0) AS driver
    FROM thread WHERE ith IS NOT NULL GROUP BY pid
), clock AS (
    SELECT pid, tid, value AS ns FROM counter WHERE name = 'task_clock_ns'
)
SELECT s.pid, CASE WHEN s.threads > 1 THEN s.threads ELSE greatest(count(c.tid), 1) END AS threads
FROM seen s
LEFT JOIN clock d ON d.pid = s.pid AND d.tid = s.driver AND d.ns > 0
LEFT JOIN clock c ON c.pid = s.pid AND c.ns >= d.ns / 2
GROUP BY s.pid, s.threads;
