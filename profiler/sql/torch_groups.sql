-- Operators of torch by name and arguments. total: of calls that returned; own: total less what was called inside, also
-- by calls that an exception left and whose own time is not known.
WITH RECURSIVE ended AS (
    SELECT call_id, parent_id, end_ns - start_ns AS ns FROM api_call WHERE kind = 'operator' AND end_ns IS NOT NULL
), around AS (  -- of calls that were left, and what is no operator: those around, up to one that returned
    SELECT call_id, parent_id, 1 AS steps FROM api_call
    WHERE (kind = 'operator' AND end_ns IS NULL) OR kind = 'annotation'
    UNION
    SELECT a.call_id, p.parent_id, a.steps + 1 FROM around a JOIN api_call p ON p.call_id = a.parent_id
    WHERE ((p.kind = 'operator' AND p.end_ns IS NULL) OR p.kind = 'annotation') AND a.steps < 64
), within AS (
    SELECT call_id, sum(ns) AS ns FROM (
        SELECT parent_id AS call_id, ns FROM ended WHERE parent_id IS NOT NULL
        UNION ALL
        SELECT a.parent_id, e.ns FROM ended e JOIN around a ON a.call_id = e.parent_id WHERE a.parent_id IS NOT NULL
    ) GROUP BY call_id
)
SELECT c.name, c.args_id, any_value(a.dims), any_value(a.types), any_value(a.scalars), any_value(a.strides),
       count(*), count(*) FILTER (c.end_ns IS NULL), coalesce(sum(c.end_ns - c.start_ns), 0)::BIGINT,
       coalesce(sum(greatest(c.end_ns - c.start_ns - coalesce(w.ns, 0), 0)), 0)::BIGINT,
       coalesce(quantile_cont(c.end_ns - c.start_ns, 0.5), 0), coalesce(quantile_cont(c.end_ns - c.start_ns, 0.99), 0)
FROM api_call c LEFT JOIN within w USING (call_id) LEFT JOIN api_args a USING (args_id)
WHERE c.kind = 'operator'
GROUP BY c.name, c.args_id
ORDER BY 10 DESC, 1, 2
LIMIT 5000
