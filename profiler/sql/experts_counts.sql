-- How often each expert was used, by phase and layer.
SELECT r.pid, r.phase, r.layer, r.experts, u.expert, count(*) AS uses
FROM expert_use u JOIN expert_read r USING (exec_id, node_index)
GROUP BY ALL;
