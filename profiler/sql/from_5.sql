-- A recording of version 5, read as one of version 6: where variables are read, and what they are, is not known.
CREATE OR REPLACE TABLE memory.main.variable AS
SELECT variable_id, resource_id, name, expression, source, NULL::VARCHAR AS function, NULL::VARCHAR AS type FROM variable;
