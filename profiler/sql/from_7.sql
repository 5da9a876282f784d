-- A recording of version 7, read as one of version 8: where threads went to wait, and which did not come back, is not known.
CREATE OR REPLACE TABLE memory.main.thread_state AS SELECT *, NULL::INTEGER AS stack_id FROM thread_state;
CREATE TABLE open_wait (pid INTEGER, tid INTEGER, state VARCHAR, since_ns BIGINT, stack_id INTEGER);
