-- Where every pool thread's time went, from graph executions at thread level (ns), by phase. A thread makes no progress
-- while it is off the processor, so a stretch off the processor lies within one operator, and there in one of two parts:
-- before its work was done, or at the barrier. Some operators have barriers inside: who sleeps there is known by its stack.
-- Operators without a barrier behind them are all work.
-- Of the executions $first to $last, which ran from $from_ns to $to_ns: the join takes memory.
WITH within AS MATERIALIZED (
    FROM measured_graph WHERE level = 'thread' AND exec_id BETWEEN $first AND $last
), ran AS (
    SELECT o.exec_id, o.tid, o.ith, o.start_ns, coalesce(o.compute_end_ns, o.end_ns) AS compute_end_ns, o.end_ns
    FROM op_exec o JOIN within USING (exec_id)
    WHERE o.exec_id BETWEEN $first AND $last AND o.end_ns IS NOT NULL
), begun AS (  -- until its first operator the thread that drives the graph prepares it, the others wait for it
    SELECT r.exec_id, r.tid, r.ith, g.start_ns, min(r.start_ns) AS end_ns,
           CASE WHEN r.tid = g.tid THEN min(r.start_ns) ELSE g.start_ns END AS compute_end_ns
    FROM ran r JOIN graph_exec g USING (exec_id) GROUP BY r.exec_id, r.tid, r.ith, g.start_ns, g.tid
    HAVING min(r.start_ns) > g.start_ns
), visit AS (
    FROM ran UNION ALL BY NAME FROM begun
), away AS (  -- per execution first: its phase comes later, so that millions of rows need not carry it
    SELECT v.exec_id, v.tid, s.state,
           s.start_ns >= v.compute_end_ns AS behind,  -- its work
           behind OR coalesce(s.stack_id IN (FROM barrier_stack), false) AS at_barrier,
           least(s.end_ns, v.end_ns) - s.start_ns AS ns
    FROM absence s ASOF JOIN visit v ON s.tid = v.tid AND s.start_ns >= v.start_ns
    WHERE s.start_ns < v.end_ns
      AND s.start_ns BETWEEN $from_ns AND $to_ns
), per_off AS (
    SELECT phase, tid,
           sum(ns) FILTER (state = 'runnable') AS runnable_ns,
           sum(ns) FILTER (state = 'fault') AS fault_ns,
           sum(ns) FILTER (state NOT IN ('runnable', 'fault') AND NOT (at_barrier AND state = 'sleeping')) AS blocked_ns,
           sum(ns) FILTER (state = 'stopped') AS stopped_ns,
           sum(ns) FILTER (at_barrier AND state = 'sleeping') AS barrier_blocked_ns,
           sum(ns) FILTER (behind) AS off_at_barrier_ns,
           sum(ns) FILTER (NOT behind) AS off_at_work_ns
    FROM away JOIN within USING (exec_id) GROUP BY phase, tid
), per_graph AS (
    SELECT exec_id, tid, any_value(ith) AS ith, sum(compute_end_ns - start_ns) AS compute_ns,
           sum(end_ns - compute_end_ns) AS wait_ns
    FROM visit GROUP BY exec_id, tid
), per_thread AS (
    SELECT phase, tid, any_value(ith) AS ith, sum(compute_ns) AS compute_ns, sum(wait_ns) AS wait_ns
    FROM per_graph JOIN within USING (exec_id) GROUP BY phase, tid
)
SELECT t.phase, t.ith, t.tid,
       t.compute_ns - coalesce(off_at_work_ns, 0) AS work_ns,
       t.wait_ns - coalesce(off_at_barrier_ns, 0) AS barrier_spin_ns,
       coalesce(barrier_blocked_ns, 0) AS barrier_blocked_ns,
       coalesce(runnable_ns, 0) AS runnable_ns,
       coalesce(blocked_ns, 0) AS blocked_ns,
       coalesce(fault_ns, 0) AS fault_ns,
       coalesce(stopped_ns, 0) AS stopped_ns  -- part of blocked_ns
FROM per_thread t LEFT JOIN per_off o USING (phase, tid);
