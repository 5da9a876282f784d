-- The recording: raw facts, one clock. Times are CLOCK_MONOTONIC nanoseconds of the recorded host (BIGINT, suffix _ns).
-- Version 1. Derived facts are views (views.sql); nothing here is computed from another table.

CREATE TABLE meta (            -- one row per fact about the recording and its host
    key VARCHAR PRIMARY KEY,   -- schema_version, flowprof_version, host, boot_id, kernel, arch, cpu_model, cpus, gpu_model,
                               -- command_line, levels, budget, full, rung, rung_reason, layout, clean_end,
                               -- started_ns/started_unix_ns, stopped_ns/stopped_unix_ns, cost_cheap_ns, cost_stepped_ns …
    value VARCHAR              -- as text; numbers in decimal
);

CREATE TABLE process (
    pid INTEGER, ppid INTEGER, uid INTEGER,
    exe VARCHAR, cmdline VARCHAR,
    started_ns BIGINT,         -- when the process started
    ended_ns BIGINT,           -- when it was seen gone; NULL while alive
    cpus_allowed INTEGER       -- processors it may run on
);

CREATE TABLE thread (
    pid INTEGER, tid INTEGER,
    comm VARCHAR,
    ith INTEGER                -- index in ggml's thread pool; NULL for threads that never ran an operator
);

CREATE TABLE module (          -- a binary in which an engine was found
    module_id INTEGER, pid INTEGER,
    path VARCHAR, build_id VARCHAR,
    engine VARCHAR,            -- ggml, llama-server, …
    engine_version VARCHAR,    -- as the binary says; NULL when it does not
    size_bytes BIGINT
);

CREATE TABLE model (           -- what the graphs say about the model that ran
    pid INTEGER,
    name VARCHAR,              -- of the .gguf file that the process has mapped; NULL unknown
    architecture VARCHAR, parameters BIGINT, layers INTEGER, embedding INTEGER, vocabulary INTEGER,
    experts INTEGER, weight_bytes BIGINT, weight_types VARCHAR
);

CREATE TABLE probe_site (      -- the plan as executed
    site_id INTEGER, module_id INTEGER,
    probe VARCHAR,             -- catalogue id, e.g. ggml.op
    level VARCHAR,             -- token, graph, op, thread, request
    kind VARCHAR,              -- entry, return, call
    symbol VARCHAR,
    file_offset BIGINT,        -- NULL when refused
    instruction VARCHAR,       -- disassembly of the probed instruction
    cost_class VARCHAR,        -- emulated, single-stepped, return
    status VARCHAR,            -- planned, attached, refused
    reason VARCHAR,            -- why refused, or why this site
    hits BIGINT,               -- kernel count
    cost_ns DOUBLE             -- measured cost of one hit on this machine; NULL when not measured
);

CREATE TABLE probe_window (    -- a stretch of time with one set of probes attached
    window_id INTEGER, level VARCHAR,   -- level: token, op, thread
    start_ns BIGINT, end_ns BIGINT,
    graphs BIGINT, tokens BIGINT,       -- executed / passed through in the window
    hits BIGINT, losses BIGINT
);

CREATE TABLE loss (            -- everything that was not recorded, counted where it happened
    window_id INTEGER, place VARCHAR,   -- ring, thread_table, undescribed_graph, unmatched_op, max_events, …
    events BIGINT
);

CREATE TABLE graph (           -- a distinct operator graph (same tensors, same shapes)
    graph_id INTEGER, pid INTEGER, uid BIGINT,
    nodes INTEGER,             -- all nodes
    operators INTEGER,         -- nodes that execute: not empty, not views, not fused into another
    tokens INTEGER,            -- tokens in the batch (rows looked up in the embedding); NULL unknown
    outputs INTEGER,           -- rows of logits computed; NULL unknown
    phase VARCHAR,             -- prefill, decode, mixed, other
    described BOOLEAN          -- false: only its executions are known
);

CREATE TABLE graph_node (      -- a tensor of a graph: nodes 0 … nodes-1 in execution order, then leaves (weights, inputs)
    graph_id INTEGER, node_index INTEGER, leaf BOOLEAN,
    op VARCHAR, name VARCHAR, type VARCHAR,
    layer INTEGER,             -- NULL outside the layers
    block VARCHAR,             -- attention, ffn, moe, output, other
    ne BIGINT[],               -- shape, 4 elements, fastest first
    size_bytes BIGINT,
    sources INTEGER[],         -- node_index of each source
    executes BOOLEAN           -- visited by the compute loop
);

CREATE TABLE graph_exec (      -- one execution of a graph
    exec_id BIGINT, pid INTEGER, tid INTEGER, graph_id INTEGER,
    window_id INTEGER,         -- window in which it started
    start_ns BIGINT, end_ns BIGINT,      -- end_ns NULL: not seen to end
    level VARCHAR              -- deepest level that covered it wholly: token, op, thread
);

CREATE TABLE op_exec (         -- one operator on one thread (op level: the first thread only)
    exec_id BIGINT, node_index INTEGER,
    tid INTEGER, ith SMALLINT,
    start_ns BIGINT,
    compute_end_ns BIGINT,     -- the thread's own work done, barrier reached; NULL below thread level
    end_ns BIGINT              -- barrier left: next operator or end of the graph
);

CREATE TABLE request (         -- one llama-server task, where the server's symbols allow
    pid INTEGER, task_id INTEGER,
    slot INTEGER,              -- NULL unknown
    posted_ns BIGINT,          -- put into the server's queue; NULL: before the recording
    first_result_ns BIGINT,    -- first answer sent (the first token when streaming)
    end_ns BIGINT,             -- last answer sent
    results INTEGER            -- answers sent
);

CREATE TABLE event_note (      -- things that happened to the target or the recorder: fork, exec, exit, library loaded, disk full, …
    at_ns BIGINT, pid INTEGER, what VARCHAR, detail VARCHAR
);
