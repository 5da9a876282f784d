-- A recording of version 3, read as one of version 4: no CUDA or NCCL calls of its own.
CREATE TABLE device_call (call_id BIGINT, what VARCHAR, stream BIGINT, name VARCHAR, grid VARCHAR, block VARCHAR,
    shared_bytes BIGINT, bytes BIGINT, direction VARCHAR, host_memory VARCHAR, address BIGINT, communicator BIGINT,
    result INTEGER);
