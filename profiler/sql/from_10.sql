-- A recording of version 10, read as one of version 11: what became of KV cells was not recorded.
CREATE TABLE memory.main.kv_event (pid INTEGER, tid INTEGER, at_ns BIGINT, what VARCHAR, place BIGINT, sequence INTEGER, from_position INTEGER, to_position INTEGER);
