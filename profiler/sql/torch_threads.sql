-- Threads that call torch's operators; top: within operators that are in no other one whose time is known. What an
-- exception left, or was open at the end, has none, and may stand as the parent of what was called after it.
-- backward, script, compiled: of top, in a backward pass, in TorchScript, in a function that torch.compile made.
WITH RECURSIVE around AS (  -- of calls that were left, and what is no operator: those around, up to one that returned
    SELECT call_id, parent_id, 1 AS steps FROM api_call
    WHERE (kind = 'operator' AND end_ns IS NULL) OR kind = 'annotation'
    UNION
    SELECT a.call_id, p.parent_id, a.steps + 1 FROM around a JOIN api_call p ON p.call_id = a.parent_id
    WHERE ((p.kind = 'operator' AND p.end_ns IS NULL) OR p.kind = 'annotation') AND a.steps < 64
), known AS (
    SELECT call_id FROM api_call WHERE kind = 'operator' AND end_ns IS NOT NULL
), counted AS (  -- calls whose time holds that of what they called
    SELECT call_id FROM known UNION SELECT a.call_id FROM around a JOIN known k ON k.call_id = a.parent_id
)
SELECT c.pid, c.tid, any_value(t.comm), count(*),
       coalesce(sum(c.end_ns - c.start_ns) FILTER (o.call_id IS NULL), 0)::BIGINT,
       coalesce(sum(c.end_ns - c.start_ns) FILTER (o.call_id IS NULL AND (r.backward OR e.backward)), 0)::BIGINT,
       coalesce(sum(c.end_ns - c.start_ns) FILTER (o.call_id IS NULL AND (r.script OR e.script)), 0)::BIGINT,
       coalesce(sum(c.end_ns - c.start_ns) FILTER (o.call_id IS NULL AND (r.compiled OR e.compiled)), 0)::BIGINT
FROM api_call c LEFT JOIN counted o ON o.call_id = c.parent_id LEFT JOIN torch_region r ON r.call_id = c.parent_id
    LEFT JOIN torch_region e ON e.call_id = c.call_id LEFT JOIN thread t ON t.pid = c.pid AND t.tid = c.tid
WHERE c.kind = 'operator' GROUP BY c.pid, c.tid ORDER BY 5 DESC, 2 LIMIT 100
