-- How often each expert was used, by phase and layer. Counted by execution first: of a prompt's tokens many use the same.
SELECT r.pid, r.phase, r.layer, r.experts, u.expert, sum(u.uses)::BIGINT AS uses
FROM (SELECT exec_id, node_index, expert, count(*) AS uses FROM expert_use GROUP BY ALL) u
JOIN expert_read r USING (exec_id, node_index)
GROUP BY ALL;
