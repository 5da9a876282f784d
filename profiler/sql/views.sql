-- Derived facts. Created inside every recording, and again in memory when an older one is opened.
-- Nothing here is stored: a view may change between versions of flowprof, the tables may not.

CREATE OR REPLACE VIEW graph_duration AS  -- one row per graph execution that was seen to end
SELECT
    e.exec_id,                              -- as in graph_exec
    e.graph_id,
    e.window_id,
    e.pid,
    e.tid AS driver_tid,                    -- the thread that drives it
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
    r.pid, r.task_id, r.slot,
    CASE WHEN r.started_ns IS NOT NULL THEN  -- the build shows its slots
             CASE WHEN t.at_ns <= coalesce(r.released_ns, t.at_ns) THEN t.at_ns END
         WHEN r.results > 1 THEN r.first_result_ns
    END - r.posted_ns AS ttft_ns,           -- time to the first token, ns; NULL unknown: without slots, when the answer
                                            -- came in one piece
    r.end_ns - r.posted_ns AS dur_ns,       -- whole request, ns
    r.results                               -- answers sent
FROM request r
ASOF LEFT JOIN slot_token t ON t.pid = r.pid AND t.slot = r.slot AND t.at_ns >= r.started_ns;

CREATE OR REPLACE VIEW request_graph AS   -- one row per llama-server task and graph execution that had tokens of it
WITH had AS (                             -- who had a slot from when on
    SELECT pid, slot, task_id, coalesce(started_ns, -1) AS from_ns, coalesce(released_ns, 9223372036854775807) AS until_ns
    FROM request WHERE slot IS NOT NULL
), batch AS (                             -- a batch is the thread's next graph, and no graph is of two
    SELECT b.pid, b.tid, b.at_ns, e.exec_id
    FROM (SELECT DISTINCT pid, tid, at_ns FROM batch_part) b
    ASOF JOIN graph_exec e ON e.pid = b.pid AND e.tid = b.tid AND e.start_ns >= b.at_ns
    QUALIFY row_number() OVER (PARTITION BY e.exec_id ORDER BY b.at_ns DESC) = 1
), part AS (
    SELECT p.pid, p.at_ns, p.sequence, b.exec_id, sum(p.tokens) AS tokens
    FROM batch_part p JOIN batch b ON b.pid = p.pid AND b.tid = p.tid AND b.at_ns = p.at_ns
    GROUP BY ALL
), own AS (
    SELECT p.pid, CASE WHEN p.at_ns <= h.until_ns THEN h.task_id END AS task, p.exec_id, sum(p.tokens) AS tokens
    FROM part p ASOF LEFT JOIN had h ON h.pid = p.pid AND h.slot = p.sequence AND p.at_ns >= h.from_ns
    GROUP BY ALL
)
SELECT
    pid,
    task,                                   -- task_id, as in request; NULL: of no request that is known
    exec_id,                                -- as in graph_exec
    tokens::BIGINT AS tokens,               -- of the task, in the graph's batch
    tokens / sum(tokens) OVER (PARTITION BY exec_id) AS share  -- of all tokens of that batch
FROM own WHERE tokens > 0;

CREATE OR REPLACE VIEW graph_context AS   -- how long a context the attention of a graph reads; no row where it is not known
SELECT
    n.graph_id,
    -- n_kv: rows of the k that FLASH_ATTN_EXT reads, or of the result of the MUL_MAT that llama.cpp names kq-<layer>; the
    -- longest of the graph's layers, for sliding windows are shorter
    max(CASE WHEN n.op = 'FLASH_ATTN_EXT' THEN k.ne[2] ELSE n.ne[1] END) AS n_kv
FROM graph_node n
LEFT JOIN graph_node k ON k.graph_id = n.graph_id AND k.node_index = n.sources[2]
WHERE NOT n.leaf AND (n.op = 'FLASH_ATTN_EXT' OR n.op = 'MUL_MAT' AND regexp_matches(n.name, '^kq(-\d+)?$'))
GROUP BY n.graph_id;

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

CREATE OR REPLACE VIEW pool_thread AS     -- the threads that compute graphs
SELECT pid, tid, min(ith) AS ith FROM (
    SELECT pid, tid, ith FROM thread WHERE ith IS NOT NULL
    UNION ALL SELECT DISTINCT pid, tid, 0 FROM graph_exec  -- known without thread windows: who drives the graphs
) GROUP BY pid, tid;

CREATE OR REPLACE VIEW pool_member AS     -- the threads that compute graphs, with whoever drives those: a row each
WITH driver AS (SELECT DISTINCT pid, tid AS driver_tid FROM graph_exec),
several AS (SELECT pid FROM driver GROUP BY pid HAVING count(*) > 1)  -- such as one of a draft model: from thread windows
SELECT pid, tid, ith, driver_tid FROM pool_thread JOIN driver USING (pid) WHERE pid NOT IN (FROM several)
UNION ALL
SELECT pid, tid, min(ith), driver_tid FROM (
    SELECT e.pid, o.tid, o.ith, e.tid AS driver_tid FROM op_exec o JOIN graph_exec e USING (exec_id)
    WHERE e.pid IN (FROM several)
    UNION ALL SELECT pid, driver_tid, 0, driver_tid FROM driver WHERE pid IN (FROM several)
) GROUP BY pid, tid, driver_tid;

CREATE OR REPLACE VIEW absence AS         -- thread_state, with waits for pages told from other waits for a device:
-- while one thread reads pages from disk the others wait for the same pages, without a major fault of theirs;
-- and threads of other programs (by_tid, by_comm) replaced by their processes
WITH other AS (
    SELECT tid, any_value(pid) AS pid, any_value(comm) AS comm FROM other_thread
    WHERE tid NOT IN (SELECT tid FROM thread WHERE tid IS NOT NULL) GROUP BY tid
), faulty AS (
    SELECT DISTINCT g.exec_id, g.pid, g.start_ns, g.end_ns
    FROM page_fault f ASOF JOIN graph_exec g ON f.pid = g.pid AND f.at_ns >= g.start_ns
    WHERE f.at_ns <= g.end_ns
), told AS (  -- few wait for a device, and only those are looked up
    FROM thread_state WHERE state IS DISTINCT FROM 'disk'
    UNION ALL
    SELECT s.* REPLACE (CASE WHEN s.start_ns < f.end_ns THEN 'fault' ELSE s.state END AS state)
    FROM (FROM thread_state WHERE state = 'disk') s
    ASOF LEFT JOIN faulty f ON s.pid = f.pid AND s.start_ns >= f.start_ns
)
SELECT s.* REPLACE (coalesce(o.pid, s.by_tid) AS by_tid, coalesce(o.comm, s.by_comm) AS by_comm)
FROM told s
LEFT JOIN other o ON o.tid = s.by_tid;

CREATE OR REPLACE VIEW equal_stack AS     -- stacks with equal frames: all of them with the first one's number
SELECT stack_id, min(stack_id) OVER (PARTITION BY frames) AS first_id
FROM (SELECT stack_id, list((module, address, function) ORDER BY frame) AS frames FROM stack GROUP BY stack_id);

CREATE OR REPLACE VIEW barrier_stack AS   -- stacks of threads that wait for each other: in OpenMP's library, or in ggml's own barrier
SELECT stack_id FROM stack GROUP BY stack_id
HAVING regexp_matches(
    arg_min(module, frame) FILTER (NOT regexp_matches(module, '/(libc|libpthread|ld-linux)[-.\w]*$')),
    '/lib(gomp|omp|iomp5)[-.\w]*$')
    OR bool_or(function = 'ggml_barrier' AND frame < 8);

CREATE OR REPLACE VIEW expert_read AS     -- one row per graph execution and layer of experts whose ids were read
SELECT
    u.exec_id, u.node_index, e.graph_id, g.pid, g.phase, e.start_ns,
    n.layer,
    n.sources[3] AS ids_index,              -- node_index of the ids; operators with the same ids (up, gate, down) share this row
    w.ne[3] AS experts,                     -- that there are
    i.ne[1] AS used,                        -- by one token
    i.ne[2] AS tokens,
    u.uses,                                 -- ids that were recorded; used × tokens when all were
    u.distinct_experts                      -- different ones among them
FROM (SELECT exec_id, node_index, count(*) AS uses, count(DISTINCT expert) AS distinct_experts
      FROM expert_use GROUP BY ALL) u
JOIN graph_exec e USING (exec_id)
JOIN graph g USING (graph_id)
JOIN graph_node n ON n.graph_id = e.graph_id AND n.node_index = u.node_index AND n.op = 'MUL_MAT_ID'
JOIN graph_node w ON w.graph_id = e.graph_id AND w.node_index = n.sources[1]
     AND w.ne[3] BETWEEN 1 AND 4096         -- no model has more
JOIN graph_node i ON i.graph_id = e.graph_id AND i.node_index = n.sources[3]
QUALIFY row_number() OVER (PARTITION BY u.exec_id, n.sources[3] ORDER BY u.node_index) = 1;

-- ---------------------------------------------------------------- GPU work

CREATE OR REPLACE VIEW correlated_call AS -- the API call that carries a correlation; of several the first
SELECT pid, correlation, min(call_id) AS call_id
FROM api_call WHERE kind IN ('runtime', 'driver') AND correlation IS NOT NULL GROUP BY pid, correlation
UNION ALL                                 -- for slices of an unknown process (pid NULL), where only one process used the number
SELECT NULL, correlation, min(call_id)
FROM api_call WHERE kind IN ('runtime', 'driver') AND correlation IS NOT NULL
GROUP BY correlation HAVING count(DISTINCT pid) = 1;

CREATE OR REPLACE VIEW gpu_work AS        -- one row per slice of work: kernels, collectives, copies, memsets, whole graphs
WITH numbered AS (                          -- the innermost operator with an external id
    SELECT external_id, arg_max(call_id, start_ns) AS call_id
    FROM api_call WHERE kind = 'operator' AND external_id IS NOT NULL
    GROUP BY external_id HAVING count(DISTINCT pid) = 1
)
SELECT
    s.slice_id, s.pid, s.device, s.stream, s.kind, s.name, s.bytes, s.direction, s.host_memory,
    s.start_ns,                             -- ns
    s.end_ns - s.start_ns AS dur_ns,        -- ns
    c.call_id AS launch_id,                 -- call_id of the API call that asked for it; NULL: not in the recording
    c.name AS launch,                       -- its name
    c.start_ns AS launch_ns,                -- when it began, ns
    s.kind = 'graph' OR s.graph_node IS NOT NULL OR coalesce(contains(c.name, 'GraphLaunch'), false) AS in_graph,
    -- operator: call_id of the innermost operator around the launch; NULL: none, or launched in a graph
    CASE WHEN NOT in_graph THEN coalesce(own.call_id, called.call_id, c.parent_id) END AS operator_id
FROM gpu_slice s
LEFT JOIN correlated_call l ON l.correlation = s.correlation AND l.pid IS NOT DISTINCT FROM s.pid
LEFT JOIN api_call c ON c.call_id = l.call_id
LEFT JOIN numbered own ON own.external_id = s.external_id
LEFT JOIN numbered called ON called.external_id = c.external_id
WHERE s.kind NOT IN ('sync', 'annotation');

CREATE OR REPLACE VIEW torch_region AS     -- calls that run torch's operators, and what they or those around them are
WITH RECURSIVE region AS (
    SELECT call_id, parent_id, starts_with(name, 'autograd::engine') AS backward, name = 'TorchScript' AS script,
           starts_with(name, 'Torch-Compiled Region') AS compiled
    FROM api_call WHERE backward OR script OR compiled
), around AS (
    SELECT *, 1 AS steps FROM region
    UNION
    SELECT a.call_id, r.parent_id, r.backward, r.script, r.compiled, a.steps + 1
    FROM around a JOIN region r ON r.call_id = a.parent_id WHERE a.steps < 64
)
SELECT
    call_id,
    bool_or(backward) AS backward,          -- a backward pass
    bool_or(script) AS script,              -- TorchScript's interpreter
    bool_or(compiled) AS compiled           -- a function that torch.compile made
FROM around GROUP BY call_id;

CREATE OR REPLACE VIEW spelled_release AS -- a release of all that a thread has: one row for each, as in resource_event
WITH every AS (SELECT resource_id, pid, tid, unit, at_ns FROM resource_event WHERE event = 'release' AND instance IS NULL),
by_unit AS (SELECT DISTINCT resource_id FROM every WHERE unit IS NOT NULL),   -- some are of one unit only
turn AS (
    SELECT * FROM resource_event WHERE event IN ('acquire', 'release') AND instance IS NOT NULL
    AND resource_id IN (SELECT resource_id FROM every)
),
turns AS (
    SELECT e.resource_id, e.pid, e.tid, e.task, e.instance, e.unit, x.at_ns AS released_ns,
        sum(CASE e.event WHEN 'acquire' THEN 1 ELSE -1 END) AS held
    FROM turn e
    ASOF JOIN every x ON e.resource_id = x.resource_id AND e.pid = x.pid AND e.tid = x.tid AND e.at_ns < x.at_ns
    WHERE e.resource_id NOT IN (SELECT resource_id FROM by_unit)
    GROUP BY ALL
    UNION ALL
    SELECT e.resource_id, e.pid, e.tid, e.task, e.instance, e.unit, x.at_ns, sum(CASE e.event WHEN 'acquire' THEN 1 ELSE -1 END)
    FROM turn e
    ASOF JOIN (
        SELECT x.resource_id, x.pid, x.tid, u.unit, x.at_ns
        FROM every x JOIN (SELECT DISTINCT resource_id, pid, tid, unit FROM turn WHERE unit IS NOT NULL) u
            ON u.resource_id = x.resource_id AND u.pid = x.pid AND u.tid = x.tid AND u.unit = coalesce(x.unit, u.unit)
        WHERE x.resource_id IN (SELECT resource_id FROM by_unit)
    ) x ON e.resource_id = x.resource_id AND e.pid = x.pid AND e.tid = x.tid AND e.unit = x.unit AND e.at_ns < x.at_ns
    GROUP BY ALL
)
SELECT released_ns AS at_ns, pid, tid, resource_id, 'release' AS event, instance, unit, 1 AS units, task,
       NULL::INTEGER AS holder, NULL::INTEGER AS stack_id, NULL::INTEGER AS site_id
FROM turns, range(least(held, 1000)::BIGINT) WHERE held > 0;

CREATE OR REPLACE VIEW resource_step AS   -- resource_event, with a release of all that a thread has spelled out: one row for each
SELECT
    at_ns,                                  -- CLOCK_MONOTONIC, ns
    pid, tid, resource_id,
    event,                                  -- wait, acquire, use, release, give-up
    instance, unit,                         -- as in resource_event; instance is never NULL
    units, task, holder, stack_id, site_id
FROM resource_event WHERE instance IS NOT NULL
UNION ALL SELECT * FROM spelled_release;

CREATE OR REPLACE VIEW window_span AS       -- windows that ended; deep ones with the time in which their probes were switched
SELECT *, CASE WHEN level = 'token' THEN start_ns ELSE coalesce(lag(end_ns) OVER by_start, start_ns) END AS from_ns,
       CASE WHEN level = 'token' THEN end_ns ELSE coalesce(lead(start_ns) OVER by_start, end_ns) END AS to_ns
FROM probe_window WHERE end_ns IS NOT NULL WINDOW by_start AS (ORDER BY start_ns);
