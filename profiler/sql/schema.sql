-- The recording: raw facts, one clock. Times are CLOCK_MONOTONIC nanoseconds of the recorded host (BIGINT, suffix _ns).
-- Version 12 (SCHEMA_VERSION of store.py). Derived facts are views (views.sql); nothing here is computed from another table.

CREATE TABLE meta (            -- one row per fact about the recording and its host
    key VARCHAR PRIMARY KEY,   -- schema_version, flowprof_version, host, boot_id, kernel, arch, cpu_model, cpus, gpu_model,
                               -- settings of the machine (host.py), what it did meanwhile (meanwhile.py),
                               -- command_line, levels, budget, full, rung, rung_reason, layout, clean_end,
                               -- started_ns/started_unix_ns, stopped_ns/stopped_unix_ns, cost_cheap_ns, cost_stepped_ns,
                               -- interrupts (kinds that are told from the threads that they interrupt),
                               -- counters, counters_missing, counter_misses, counter_line_bytes,
                               -- counter_stream_share …
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
    ith INTEGER,               -- index in ggml's thread pool; NULL for threads that never ran an operator
    cpus VARCHAR               -- processors that it may use, as a list like 0-3,8; at the end of the recording
);

CREATE TABLE module (          -- a binary in which an engine was found
    module_id INTEGER, pid INTEGER,
    path VARCHAR, build_id VARCHAR,
    engine VARCHAR,            -- ggml, llama-server, …
    engine_version VARCHAR,    -- as the binary says; NULL when it does not
    size_bytes BIGINT,
    instructions VARCHAR       -- sets of the processor that its kernels use, as it says: avx2 fma …; NULL when it does not
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
    hits BIGINT, losses BIGINT,
    recorder_ns BIGINT,        -- processor time of flowprof, from the window before to the one behind
    displaced_ns BIGINT        -- of it, what the targets did without: all of it where no processor was idle
);

CREATE TABLE loss (            -- everything that was not recorded, counted where it happened
    window_id INTEGER, place VARCHAR,   -- ring, thread_table, undescribed_graph, unmatched_op, max_events, …
    events BIGINT
);

CREATE TABLE graph (           -- a distinct operator graph (same operators, names, shapes; uid: of its first appearance)
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
    size_bytes BIGINT,         -- from the first element to the last
    data_bytes BIGINT,         -- the elements' own bytes, without what lies between the rows of a view
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

CREATE TABLE thread_state (    -- a stretch of time in which a thread of the target did not run, from the scheduler
    pid INTEGER, tid INTEGER,
    cpu SMALLINT,              -- where it ran next
    start_ns BIGINT, end_ns BIGINT,
    state VARCHAR,             -- runnable: it could run and got no processor; sleeping: waits (futex, socket, timer …);
                               -- fault: reads a page of a mapped file from disk; disk: other uninterruptible waits;
                               -- stopped: SIGSTOP, or a debugger
    by_tid INTEGER,            -- runnable: who ran in its place; else who woke it (0: an interrupt, or nobody's)
    by_comm VARCHAR,           -- name of that thread; NULL unknown
    stack_id INTEGER           -- as in stack: where it went to wait; NULL: it did not, or none was taken
);

CREATE TABLE open_wait (       -- threads that did not run when the recording ended: their wait has no end in it
    pid INTEGER, tid INTEGER,
    state VARCHAR,             -- sleeping, disk, stopped, as in thread_state
    since_ns BIGINT,           -- NULL: it did not run while it was recorded, or the scheduler was not recorded
    stack_id INTEGER           -- as in stack; NULL: it could not be read
);

CREATE TABLE counter (         -- what the kernel counted for each thread while the recording ran
    pid INTEGER, tid INTEGER,  -- tid 0: for the process's control group (record/quota.py)
    name VARCHAR,              -- task_clock_ns, run_delay_ns, voluntary_switches, involuntary_switches, minor_faults,
                               -- major_faults; of a group quota_us, period_us, nr_periods, nr_throttled, throttled_ns
    value BIGINT
);

CREATE TABLE other_thread (    -- threads of other programs that got in the way (thread_state.by_tid) and have a process of another id
    tid INTEGER,
    pid INTEGER,
    comm VARCHAR               -- the process's name
);

CREATE TABLE op_counter (      -- counters of operators (--counters), added up batch by batch: several rows of one key add up
    graph_id INTEGER, node_index INTEGER,
    ith SMALLINT,              -- thread of the pool
    level VARCHAR,             -- thread: of the thread's own work; op: of the whole operator on the first thread, barrier included
    calls BIGINT,              -- operators counted
    task_clock_ns BIGINT,      -- on a processor
    context_switches BIGINT, page_faults BIGINT,
    cycles BIGINT, instructions BIGINT, stalled_cycles BIGINT,  -- in user mode; NULL: the machine does not count it
    llc_misses BIGINT,         -- perf's cache-misses; on AMD's Zen those of the L2
    llc_prefetches BIGINT      -- AMD's Zen: lines that its L2's prefetcher took from memory
);

CREATE TABLE neighbour (       -- processor time of other processes of the host while the recording ran; small users are left out
    pid INTEGER, comm VARCHAR,
    cpu_ns BIGINT,
    cpus VARCHAR               -- processors that it may use
);

CREATE TABLE page_fault (      -- a major fault: a page had to come from disk
    pid INTEGER, tid INTEGER,
    at_ns BIGINT,              -- when it was done
    address BIGINT,
    file VARCHAR               -- that is mapped there; '': none, the page was in swap; NULL: not known
);

CREATE TABLE expert_use (      -- mixture of experts: one row per expert operator, token and expert chosen
    exec_id BIGINT, node_index INTEGER,
    token INTEGER,             -- row in the batch
    rank SMALLINT,             -- 0: the first choice
    expert INTEGER
);

CREATE TABLE ceiling (         -- what the recorded machine can do, as measured or stated
    what VARCHAR,              -- dram_read, llc_read, l2_read: bytes/s; gemm: operations/s (a multiply-add is two)
    dtype VARCHAR,             -- f32, bf16, f16, int8 for gemm; '' for bandwidths
    threads INTEGER,
    value DOUBLE, low DOUBLE, high DOUBLE,   -- best, and the spread of the repetitions
    source VARCHAR             -- one sentence
);

CREATE TABLE request (         -- one llama-server task, where the server's symbols allow
    pid INTEGER, task_id INTEGER,
    slot INTEGER,              -- NULL unknown
    posted_ns BIGINT,          -- put into the server's queue; NULL: before the recording
    started_ns BIGINT,         -- given a slot; NULL: before the recording, never, or the build does not show it
    released_ns BIGINT,        -- its slot was given back; NULL as above
    first_result_ns BIGINT,    -- first answer sent (the first token when streaming)
    end_ns BIGINT,             -- last answer sent
    results INTEGER            -- answers sent
);

CREATE TABLE slot_token (      -- llama-server chose a token for a slot
    pid INTEGER, slot INTEGER, at_ns BIGINT
);

CREATE TABLE batch_part (      -- neighbouring tokens of one sequence in a batch, which is the thread's next graph
    pid INTEGER, tid INTEGER,
    at_ns BIGINT,              -- of the batch: its parts have the same
    context BIGINT,            -- tells contexts apart: a draft model has one of its own
    sequence INTEGER,          -- llama-server: the slot's number
    tokens INTEGER,
    position INTEGER,          -- of the first one in its sequence: so many are in the KV cache before it
    output BOOLEAN             -- logits of the last one are computed: a token may be chosen from them
);

CREATE TABLE kv_event (        -- llama.cpp: what became of cells of the KV cache
    pid INTEGER, tid INTEGER, at_ns BIGINT,
    what VARCHAR,              -- freed: a sequence gave them back; refused: a batch found no room
    place BIGINT,              -- freed: tells caches apart; refused: the context, as in batch_part
    sequence INTEGER,          -- freed: whose; negative: of all sequences
    from_position INTEGER,     -- freed: of its tokens from this one (negative: the first)
    to_position INTEGER        -- to this one, which it keeps (negative: to the last)
);

CREATE TABLE event_note (      -- things that happened to the target or the recorder: fork, exec, exit, library loaded, disk full, …
    at_ns BIGINT, pid INTEGER, what VARCHAR, detail VARCHAR
);

-- ---------------------------------------------------------------- calls on the host, and GPU work (imports only)

CREATE TABLE api_call (        -- a call on the host: an operator, a CUDA or HIP API function, an annotation
    call_id BIGINT,
    pid INTEGER, tid BIGINT,
    kind VARCHAR,              -- operator, runtime, driver, nccl, annotation, python, other; collective: one that
                               -- a thread of its backend runs, whoever asked for it
    name VARCHAR,
    start_ns BIGINT,
    end_ns BIGINT,             -- NULL: it did not return, an exception left it
    parent_id BIGINT,          -- call_id of the innermost operator (or, recorded, call) around it on its thread; NULL: none
    depth INTEGER,             -- so many are around it
    correlation BIGINT,        -- the number that its GPU work carries, too; NULL: causes none, or not known
    external_id BIGINT,        -- the recording profiler's number of an operator, or of the operator that a call belongs to
    args_id INTEGER            -- as in api_args; NULL: not recorded
);

CREATE TABLE api_args (        -- distinct arguments of operators
    args_id INTEGER,
    dims VARCHAR,              -- JSON: one shape per argument, slowest dimension first; [] for what is no tensor
    types VARCHAR,             -- JSON: one type per argument, as the recording profiler names it
    scalars VARCHAR,           -- JSON: one text per argument, "" for tensors
    strides VARCHAR            -- JSON: like dims, in elements; NULL: not recorded
);

CREATE TABLE device_call (     -- what a call of a CUDA or NCCL function was about; imports tell less, and have no rows here
    call_id BIGINT,            -- as in api_call
    what VARCHAR,              -- launch, graph_launch, copy, memset, synchronize, event_record, event_wait, event_query,
                               -- capture_begin, capture_end, graph_instantiate, allocate, free, collective, group,
                               -- function (of the driver: looked up by name)
    stream BIGINT,             -- the handle; 0: the default stream; NULL: of none (a whole device, an event, memory)
    name VARCHAR,              -- launch: the kernel's, demangled, or file+address of its stub, or (driver) function
                               -- and handle; NULL: not known
    grid VARCHAR, block VARCHAR,  -- launch: JSON [x, y, z]
    shared_bytes BIGINT,       -- launch: dynamic shared memory of a block
    bytes BIGINT,              -- copied, set, allocated, or of this process's part of a collective
    direction VARCHAR,         -- copy: HtoD, DtoH, DtoD, HtoH; NULL: the call leaves it to the driver
    host_memory VARCHAR,       -- pageable, pinned; allocate, free: pinned is memory of the host, NULL the device's; copy:
                               -- NULL unknown, or no host memory
    address BIGINT,            -- the event; the memory allocated or freed; of a copy the destination; capture_end: the graph;
                               -- graph_instantiate, graph_launch: the executable one
    communicator BIGINT,       -- collective: the handle
    graph BIGINT,              -- graph_instantiate: the graph that it is made of
    result INTEGER             -- what the call returned: 0 success, else the library's number of an error
);

CREATE TABLE gpu_device (
    device INTEGER,
    name VARCHAR,              -- as the driver names it; NULL unknown
    memory_bytes BIGINT
);

CREATE TABLE gpu_slice (       -- a stretch of time in which a GPU did one piece of work, in its own queue
    slice_id BIGINT,
    pid INTEGER,               -- of the process that asked for it; NULL: not known
    device INTEGER, stream BIGINT,
    kind VARCHAR,              -- kernel, collective, copy, memset, graph (a whole graph, its kernels not seen); no work:
                               -- sync (a stream that waits for an event), annotation
    name VARCHAR,
    start_ns BIGINT, end_ns BIGINT,
    correlation BIGINT,        -- as in api_call
    external_id BIGINT,        -- as in api_call; NULL: not recorded
    bytes BIGINT,              -- copied, set or sent; NULL unknown
    direction VARCHAR,         -- of copies: HtoD, DtoH, DtoD, PtoP …; NULL unknown
    host_memory VARCHAR,       -- of copies from or to the host: pageable, pinned; NULL unknown
    grid VARCHAR, block VARCHAR,  -- of kernels: JSON [x, y, z]
    graph_node BIGINT          -- the node of a CUDA graph, where that was recorded
);

CREATE TABLE gpu_sync (        -- who waits for whom, of a call that synchronises; calls of which the trace does not tell have no row
    pid INTEGER,               -- NULL: not known
    correlation BIGINT,        -- of the call, as in api_call
    waiting_stream BIGINT,     -- the stream that it makes wait for an event; NULL: the host waits
    awaited_stream BIGINT,     -- the stream that is waited for, or in which the event was recorded; NULL: not known
    awaited_record BIGINT      -- correlation of the call that recorded the event; NULL: no event, or not known
);

CREATE TABLE gpu_stream (      -- which streams wait for the default stream, and it for them
    pid INTEGER, stream BIGINT,
    flag VARCHAR               -- null (the default stream), blocking, non-blocking
);

-- ---------------------------------------------------------------- application resources (--resources)

CREATE TABLE resource (        -- what a manifest calls a resource of the application
    resource_id INTEGER,
    manifest VARCHAR,          -- its name
    name VARCHAR,              -- e.g. slot
    kind VARCHAR,              -- memory (pages, cells, buffers), state (locks, tables), queue (tasks, connections, pools)
    capacity BIGINT,           -- units of one instance as the manifest states them; NULL unknown
    about VARCHAR,             -- the manifest's sentence
    events VARCHAR,            -- which kinds of events are probed, as wait,acquire,release; holder: waits tell it; NULL: not told
    shared BOOLEAN,            -- whether the processes of a family have it together; NULL: not told, taken for yes
    until_ns BIGINT            -- since then its events are not recorded, which took too much time; NULL: until the end
);

CREATE TABLE resource_event (  -- somebody waits for, gets, uses or gives back units of a resource
    at_ns BIGINT, pid INTEGER, tid INTEGER,
    resource_id INTEGER,
    event VARCHAR,             -- wait: asks for it; acquire: has got it; use: works with it; release: has given it back;
                               -- give-up: has not got it and does not wait any more (a time-out)
    instance BIGINT,           -- which one of several (an address, mostly); 0: the only one; NULL, of a release: every one
                               -- that the thread, or the task, has, or every one of `unit`
    unit BIGINT,               -- which part of it (a page, a slot's number): joins an acquire with its release, whoever
                               -- does that; NULL: the manifest tells none
    units BIGINT,              -- so many of its units; 1 unless the manifest tells
    task BIGINT,               -- on whose behalf: request, transaction, connection; NULL: the thread's own
    holder INTEGER,            -- wait: the thread that has it, as the resource itself says; NULL: not told
    stack_id INTEGER,          -- as in stack; NULL: none was taken
    site_id INTEGER            -- as in probe_site
);

CREATE TABLE stack (           -- stacks of calls at events of resources and where threads went to wait; some are equal
    stack_id INTEGER,
    frame SMALLINT,            -- 0: the function of the event, or where the kernel was called; then its callers
    module VARCHAR,            -- file
    address BIGINT,            -- of the call in that file, as its own headers count
    function VARCHAR,          -- demangled; NULL: no symbol covers it
    source VARCHAR,            -- file:line where the file has line tables; NULL otherwise
    how VARCHAR                -- exact: the first one itself; unwound: by .eh_frame; frame-pointer; scanned: a word of
                               -- the stack that follows a call instruction (a guess)
);

CREATE TABLE variable (        -- a variable of the target that is sampled
    variable_id INTEGER,
    resource_id INTEGER,       -- whose events sample it; NULL: of none
    name VARCHAR, expression VARCHAR,
    source VARCHAR,            -- file:line of its declaration where the file has it; NULL otherwise
    function VARCHAR,          -- at whose entry or return it is read; NULL: now and then, or at events of its resource
    type VARCHAR               -- as the debug information has it; NULL: not told
);

CREATE TABLE variable_sample (
    at_ns BIGINT, pid INTEGER,
    tid INTEGER,               -- of the event; NULL: sampled periodically
    variable_id INTEGER,
    value DOUBLE               -- NULL: it could not be read
);
