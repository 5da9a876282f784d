-- A recording of version 11, read as one of version 12: which graph an executable one was made of was not recorded,
-- and resources were recorded until the end.
CREATE OR REPLACE TABLE memory.main.device_call AS SELECT *, NULL::BIGINT AS graph FROM device_call;
CREATE OR REPLACE TABLE memory.main.resource AS SELECT *, NULL::BIGINT AS until_ns FROM resource;
