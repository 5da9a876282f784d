-- A recording of version 10, read as one of version 11: what became of KV cells was not recorded, nor whose pages came
-- from disk. Which event a stream waits for was not imported.
CREATE TABLE memory.main.kv_event (pid INTEGER, tid INTEGER, at_ns BIGINT, what VARCHAR, place BIGINT, sequence INTEGER, from_position INTEGER, to_position INTEGER);
CREATE OR REPLACE TABLE memory.main.page_fault AS SELECT *, NULL::VARCHAR AS file FROM page_fault;
CREATE TABLE memory.main.gpu_sync (pid INTEGER, correlation BIGINT, waiting_stream BIGINT, awaited_stream BIGINT, awaited_record BIGINT);
CREATE TABLE memory.main.gpu_stream (pid INTEGER, stream BIGINT, flag VARCHAR);
