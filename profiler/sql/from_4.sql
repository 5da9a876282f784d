-- A recording of version 4, read as one of version 5: no resources of the application; when a request was given its slot,
-- the tokens of slots and the parts of batches are not known.
CREATE TABLE resource (resource_id INTEGER, manifest VARCHAR, name VARCHAR, kind VARCHAR, capacity BIGINT, about VARCHAR, events VARCHAR);
CREATE TABLE resource_event (at_ns BIGINT, pid INTEGER, tid INTEGER, resource_id INTEGER, event VARCHAR, instance BIGINT, unit BIGINT, units BIGINT, task BIGINT, holder INTEGER, stack_id INTEGER, site_id INTEGER);
CREATE TABLE stack (stack_id INTEGER, frame SMALLINT, module VARCHAR, address BIGINT, function VARCHAR, source VARCHAR, how VARCHAR);
CREATE TABLE variable (variable_id INTEGER, resource_id INTEGER, name VARCHAR, expression VARCHAR, source VARCHAR);
CREATE TABLE variable_sample (at_ns BIGINT, pid INTEGER, tid INTEGER, variable_id INTEGER, value DOUBLE);
CREATE VIEW request AS SELECT pid, task_id, slot, posted_ns, NULL::BIGINT AS started_ns, NULL::BIGINT AS released_ns,
    first_result_ns, end_ns, results FROM rec.main.request;
CREATE TABLE slot_token (pid INTEGER, slot INTEGER, at_ns BIGINT);
CREATE TABLE batch_part (pid INTEGER, tid INTEGER, at_ns BIGINT, context BIGINT, sequence INTEGER, tokens INTEGER, position INTEGER, output BOOLEAN);
