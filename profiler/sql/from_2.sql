-- A recording of version 2, read as one of version 3: no counters per operator, no GPU work, no calls; whoever got in the
-- way is known by thread.
CREATE TABLE other_thread (tid INTEGER, pid INTEGER, comm VARCHAR);
CREATE TABLE op_counter (
    graph_id INTEGER, node_index INTEGER, ith SMALLINT, level VARCHAR, calls BIGINT, task_clock_ns BIGINT,
    context_switches BIGINT, page_faults BIGINT, cycles BIGINT, instructions BIGINT, stalled_cycles BIGINT,
    llc_misses BIGINT, llc_prefetches BIGINT
);
CREATE TABLE api_call (call_id BIGINT, pid INTEGER, tid BIGINT, kind VARCHAR, name VARCHAR, start_ns BIGINT, end_ns
    BIGINT, parent_id BIGINT, depth INTEGER, correlation BIGINT, external_id BIGINT, args_id INTEGER);
CREATE TABLE api_args (args_id INTEGER, dims VARCHAR, types VARCHAR, scalars VARCHAR, strides VARCHAR);
CREATE TABLE gpu_device (device INTEGER, name VARCHAR, memory_bytes BIGINT);
CREATE TABLE gpu_slice (slice_id BIGINT, pid INTEGER, device INTEGER, stream BIGINT, kind VARCHAR, name VARCHAR,
    start_ns BIGINT, end_ns BIGINT, correlation BIGINT, external_id BIGINT, bytes BIGINT, direction VARCHAR,
    host_memory VARCHAR, grid VARCHAR, block VARCHAR, graph_node BIGINT);
