-- Stretches that threads of a pool were off the processor between $from and $to, the $limit longest of them, thread by
-- thread in order of start. state: its place in timeline.STATES. total: of all. by_tid -1: not known; by_ith -1: not of the pool.
WITH away AS (
    SELECT s.pid, s.tid, p.ith, greatest(s.start_ns, $from) AS start_ns, least(s.end_ns, $to) AS end_ns,
           list_position(['runnable', 'sleeping', 'fault', 'disk', 'stopped'], s.state) - 1 AS state,
           coalesce(s.by_tid, -1) AS by_tid, coalesce(s.by_comm, '') AS by_comm, coalesce(o.ith, -1) AS by_ith
    FROM absence s JOIN pool_thread p USING (pid, tid) LEFT JOIN pool_thread o ON o.pid = s.pid AND o.tid = s.by_tid
    WHERE s.start_ns < $to AND s.end_ns > $from AND s.end_ns > s.start_ns
)
SELECT pid, tid, ith, start_ns, end_ns, state, by_tid, by_comm, by_ith, total FROM (
    SELECT *, count(*) OVER () AS total, row_number() OVER (ORDER BY end_ns - start_ns DESC, start_ns) AS rank
    FROM away WHERE state IS NOT NULL
)
WHERE rank <= $limit
ORDER BY pid, ith, tid, start_ns;
