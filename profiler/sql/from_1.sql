-- A recording of version 1, read as one of version 2 (from_2.sql comes next): no scheduler, experts or ceilings, and views count with their gaps.
CREATE VIEW graph_node AS SELECT *, size_bytes AS data_bytes FROM rec.main.graph_node;
CREATE VIEW thread AS SELECT *, NULL::VARCHAR AS cpus FROM rec.main.thread;
CREATE TABLE thread_state (
    pid INTEGER, tid INTEGER, cpu SMALLINT, start_ns BIGINT, end_ns BIGINT, state VARCHAR, by_tid INTEGER, by_comm VARCHAR
);
CREATE TABLE counter (pid INTEGER, tid INTEGER, name VARCHAR, value BIGINT);
CREATE TABLE neighbour (pid INTEGER, comm VARCHAR, cpu_ns BIGINT, cpus VARCHAR);
CREATE TABLE page_fault (pid INTEGER, tid INTEGER, at_ns BIGINT, address BIGINT);
CREATE TABLE expert_use (exec_id BIGINT, node_index INTEGER, token INTEGER, rank SMALLINT, expert INTEGER);
CREATE TABLE ceiling (
    what VARCHAR, dtype VARCHAR, threads INTEGER, value DOUBLE, low DOUBLE, high DOUBLE, source VARCHAR
);
