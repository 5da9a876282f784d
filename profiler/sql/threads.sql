-- Every thread's own work and its waits at barriers, from thread windows (ns), by phase.
SELECT m.phase, m.tid, m.ith, coalesce(any_value(t.comm), '') AS comm, count(*) AS operators,
       sum(m.compute_ns) AS compute_ns, sum(m.wait_ns) AS wait_ns
FROM measured_thread m LEFT JOIN (SELECT tid, any_value(comm) AS comm FROM thread GROUP BY tid) t USING (tid)
GROUP BY m.phase, m.tid, m.ith
ORDER BY m.phase, m.ith, m.tid;
