-- Derived facts. Created inside every recording, and again in memory when an older one is opened.
-- Nothing here is stored: a view may change between versions of flowprof, the tables may not.

CREATE OR REPLACE VIEW graph_duration AS  -- one row per graph execution that was seen to end
SELECT
    e.exec_id,                              -- as in graph_exec
    e.graph_id,
    e.window_id,
    e.level,                                -- deepest level that covered it wholly: token, op, thread
    g.phase,                                -- prefill, decode, mixed, other
    g.tokens,                               -- tokens that passed through; NULL unknown
    g.outputs,                              -- rows of logits computed; NULL unknown
    e.start_ns,                             -- CLOCK_MONOTONIC, ns
    e.end_ns - e.start_ns AS dur_ns         -- ns
FROM graph_exec e JOIN graph g USING (graph_id)
WHERE e.end_ns IS NOT NULL;

CREATE OR REPLACE VIEW op_duration AS     -- one row per operator and thread
SELECT
    o.exec_id,                              -- as in graph_exec
    o.node_index,                           -- as in graph_node
    e.graph_id,
    o.tid,
    o.ith,                                  -- index of the thread in ggml's pool; 0 drives
    e.level,                                -- level of the graph execution: op, thread
    o.start_ns,                             -- CLOCK_MONOTONIC, ns
    o.end_ns - o.start_ns AS dur_ns,        -- wall time, ns
    o.compute_end_ns - o.start_ns AS compute_ns,  -- own work, ns; NULL below thread level
    o.end_ns - o.compute_end_ns AS wait_ns  -- at the barrier, ns; NULL below thread level
FROM op_exec o JOIN graph_exec e USING (exec_id);

CREATE OR REPLACE VIEW operator AS        -- op_duration on the first thread, with what the operator is
SELECT
    d.exec_id, d.node_index, d.graph_id, d.start_ns,
    d.dur_ns,                               -- wall time on the first thread, ns
    g.phase,                                -- prefill, decode, mixed, other
    n.op,                                   -- ggml's name of the operator, e.g. MUL_MAT
    n.name,                                 -- the tensor's name, e.g. ffn_up-3
    n.type,                                 -- the result's type, e.g. f32
    n.layer,                                -- NULL outside the layers
    n.block,                                -- attention, ffn, moe, output, other
    n.ne,                                   -- shape, elements, fastest dimension first
    n.size_bytes                            -- of the result, bytes
FROM op_duration d
JOIN graph g USING (graph_id)
JOIN graph_node n ON n.graph_id = d.graph_id AND n.node_index = d.node_index
WHERE d.ith = 0;

CREATE OR REPLACE VIEW token AS           -- one row per decode step: the time one more token took
SELECT
    exec_id,
    start_ns,                               -- CLOCK_MONOTONIC, ns
    dur_ns,                                 -- time inside the graph, ns
    start_ns - lag(start_ns) OVER (ORDER BY start_ns) AS since_last_ns,  -- start to start, ns; NULL for the first
    tokens                                  -- tokens in the step (several sequences decode together)
FROM graph_duration WHERE phase = 'decode';

CREATE OR REPLACE VIEW request_duration AS  -- one row per llama-server task
SELECT
    pid, task_id, slot,
    CASE WHEN results > 1 THEN first_result_ns - posted_ns END AS ttft_ns,
                                            -- time to the first token, ns; NULL when the answer came in one piece
    end_ns - posted_ns AS dur_ns,           -- whole request, ns
    results                                 -- answers sent
FROM request;

CREATE OR REPLACE VIEW loss_by_place AS   -- what was not recorded
SELECT place, sum(events)::BIGINT AS events FROM loss GROUP BY place;

CREATE OR REPLACE VIEW measured_graph AS  -- graph executions whose operators are known, all of them from first to last
SELECT d.*
FROM graph_duration d JOIN graph g USING (graph_id)
WHERE d.level IN ('op', 'thread') AND g.described;

CREATE OR REPLACE VIEW measured_operator AS  -- the first thread's operators of measured_graph, one row per call
SELECT
    m.exec_id, m.graph_id, m.phase, m.level,
    m.tokens,                               -- of the graph execution
    o.node_index,
    o.end_ns - o.start_ns AS dur_ns,        -- wall time on the first thread, ns
    n.op, n.name, n.layer, n.block          -- as in graph_node
FROM op_exec o
JOIN measured_graph m USING (exec_id)
JOIN graph_node n ON n.graph_id = m.graph_id AND n.node_index = o.node_index
WHERE o.ith = 0 AND o.end_ns IS NOT NULL;

CREATE OR REPLACE VIEW measured_thread AS  -- every thread's operators of graph executions at thread level
SELECT
    m.exec_id, m.phase, m.tokens, o.tid, o.ith, o.node_index,
    o.compute_end_ns - o.start_ns AS compute_ns,  -- own work, ns
    o.end_ns - o.compute_end_ns AS wait_ns  -- at the barrier, ns
FROM op_exec o
JOIN measured_graph m USING (exec_id)
WHERE m.level = 'thread' AND o.compute_end_ns IS NOT NULL AND o.end_ns IS NOT NULL;
