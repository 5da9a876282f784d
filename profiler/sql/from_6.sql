-- A recording of version 6, read as one of version 7: whether processes share a resource is not known.
CREATE OR REPLACE TABLE memory.main.resource AS SELECT *, NULL::BOOLEAN AS shared FROM resource;
