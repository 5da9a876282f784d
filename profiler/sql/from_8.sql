-- A recording of version 8, read as one of version 9: which of the processor's instructions the builds use is not known.
CREATE OR REPLACE TABLE memory.main.module AS SELECT *, NULL::VARCHAR AS instructions FROM module;
