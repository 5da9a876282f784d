-- A recording of version 9, read as one of version 10: the recorder's own processor time was not counted.
CREATE OR REPLACE TABLE memory.main.probe_window AS
SELECT *, NULL::BIGINT AS recorder_ns, NULL::BIGINT AS displaced_ns FROM probe_window;
