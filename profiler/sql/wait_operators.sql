-- Where the threads' time went, from graph executions at thread level (ns): by graph, node and thread with its place in the
-- pool, in two rows or more that add up. A thread makes no progress while it is off the processor, so a stretch off the
-- processor lies within one operator, and there in one of two parts: before its work was done, or at the barrier. Some
-- operators have barriers inside: who sleeps there is known by its stack. Operators without a barrier behind them are all
-- work.
-- Of the executions $first to $last, which ran from $from_ns to $to_ns: the join takes memory. Operators are quicker read
-- again from the file than kept in between.
WITH within AS MATERIALIZED (
    FROM measured_graph WHERE level = 'thread' AND exec_id BETWEEN $first AND $last
), ran AS NOT MATERIALIZED (
    SELECT o.exec_id, o.node_index, o.tid, o.ith, o.start_ns, coalesce(o.compute_end_ns, o.end_ns) AS compute_end_ns, o.end_ns,
           o.compute_end_ns IS NOT NULL AS has_barrier
    FROM op_exec o JOIN within USING (exec_id)
    WHERE o.exec_id BETWEEN $first AND $last AND o.end_ns IS NOT NULL
), begun AS MATERIALIZED (  -- node -1: until its first operator the thread that drives the graph prepares it, the others wait
    SELECT r.exec_id, -1 AS node_index, r.tid, r.ith, w.start_ns,
           CASE WHEN r.tid = w.driver_tid THEN greatest(min(r.start_ns), w.start_ns) ELSE w.start_ns END AS compute_end_ns,
           greatest(min(r.start_ns), w.start_ns) AS end_ns, false AS has_barrier, w.dur_ns AS wall_ns
    FROM ran r JOIN within w USING (exec_id) GROUP BY r.exec_id, r.tid, r.ith, w.start_ns, w.driver_tid, w.dur_ns
), visit AS NOT MATERIALIZED (
    FROM ran UNION ALL BY NAME FROM begun
), opening AS (  -- a graph's first visits: a stretch that began before, within the graph before or after it, reaches these
    SELECT * EXCLUDE (wall_ns) FROM begun
    UNION ALL BY NAME
    SELECT r.* FROM ran r SEMI JOIN begun b ON r.exec_id = b.exec_id AND r.tid = b.tid AND r.start_ns = b.end_ns
), gone AS MATERIALIZED (
    SELECT tid, start_ns AS gone_ns, end_ns AS back_ns, state, stack_id FROM absence
    WHERE start_ns < $to_ns AND end_ns > $from_ns
), met AS MATERIALIZED (  -- the first visit that it overlaps
    SELECT s.*, v.exec_id, v.node_index, v.ith, v.start_ns, v.compute_end_ns, v.end_ns
    FROM gone s ASOF JOIN visit v ON s.tid = v.tid AND s.gone_ns < v.end_ns
    WHERE s.back_ns > v.start_ns
), away AS (
    SELECT exec_id, node_index, tid, ith, state,
           greatest(gone_ns, start_ns) >= compute_end_ns AS behind,  -- its work
           behind OR coalesce(stack_id IN (FROM barrier_stack), false) AS at_barrier,
           least(back_ns, end_ns) - greatest(gone_ns, start_ns) AS ns
    FROM (
        FROM met UNION ALL
        SELECT s.* EXCLUDE (exec_id, node_index, ith, start_ns, compute_end_ns, end_ns),
               v.exec_id, v.node_index, v.ith, v.start_ns, v.compute_end_ns, v.end_ns
        FROM (FROM met WHERE back_ns > end_ns) s ASOF JOIN opening v ON s.tid = v.tid AND s.back_ns > v.start_ns
        WHERE v.start_ns >= s.end_ns
    )
), seen AS (
    SELECT w.graph_id, w.driver_tid, v.ith, v.node_index, v.tid, count(*) AS calls,
           sum(v.wall_ns) AS wall_ns,  -- of the executions
           sum(v.compute_end_ns - v.start_ns) AS compute_ns,  -- on the processor or off it
           sum(v.end_ns - v.compute_end_ns) AS wait_ns,  -- at the barrier, likewise
           count(*) FILTER (v.has_barrier) AS barrier_calls,
           sum(v.compute_end_ns - v.start_ns) FILTER (v.has_barrier) AS barrier_compute_ns,
           sum(v.end_ns - v.compute_end_ns) FILTER (v.has_barrier) AS barrier_wait_ns
    FROM visit v JOIN within w USING (exec_id)
    GROUP BY w.graph_id, w.driver_tid, v.ith, v.node_index, v.tid
), off AS (
    SELECT w.graph_id, w.driver_tid, a.ith, a.node_index, a.tid,
           sum(a.ns) FILTER (NOT a.behind) AS off_at_work_ns,
           sum(a.ns) FILTER (a.behind) AS off_at_barrier_ns,
           sum(a.ns) FILTER (a.at_barrier AND a.state = 'sleeping') AS barrier_blocked_ns,
           sum(a.ns) FILTER (a.state = 'runnable') AS runnable_ns,
           sum(a.ns) FILTER (a.state NOT IN ('runnable', 'fault') AND NOT (a.at_barrier AND a.state = 'sleeping')) AS blocked_ns,
           sum(a.ns) FILTER (a.state = 'fault') AS fault_ns,
           sum(a.ns) FILTER (a.state = 'stopped') AS stopped_ns  -- part of blocked_ns
    FROM away a JOIN within w USING (exec_id)
    GROUP BY w.graph_id, w.driver_tid, a.ith, a.node_index, a.tid
)
SELECT graph_id, driver_tid, ith, node_index, tid,
       COLUMNS(* EXCLUDE (graph_id, driver_tid, ith, node_index, tid))::BIGINT
FROM (FROM seen UNION ALL BY NAME FROM off);
