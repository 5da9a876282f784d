-- Counters of every node at one $level: the mean call, all its threads added up; calls are those of the busiest thread.
WITH per_thread AS (
    SELECT graph_id, node_index, ith, sum(calls) AS calls, sum(task_clock_ns) AS task_clock_ns,
           sum(context_switches) AS context_switches, sum(page_faults) AS page_faults, sum(cycles) AS cycles,
           sum(instructions) AS instructions, sum(stalled_cycles) AS stalled_cycles, sum(llc_misses) AS llc_misses,
           sum(llc_prefetches) AS llc_prefetches
    FROM op_counter WHERE level = $level GROUP BY ALL HAVING sum(calls) > 0
)
SELECT t.graph_id, t.node_index, max(t.calls)::BIGINT AS calls, count(*) AS threads,
       sum(t.task_clock_ns / t.calls) AS task_clock_ns, sum(t.context_switches / t.calls) AS context_switches,
       sum(t.page_faults / t.calls) AS page_faults, sum(t.cycles / t.calls) AS cycles,
       sum(t.instructions / t.calls) AS instructions, sum(t.stalled_cycles / t.calls) AS stalled_cycles,
       sum(t.llc_misses / t.calls) AS llc_misses, sum(t.llc_prefetches / t.calls) AS llc_prefetches
FROM per_thread t JOIN graph g USING (graph_id) WHERE g.described
GROUP BY t.graph_id, t.node_index
ORDER BY t.graph_id, t.node_index;
