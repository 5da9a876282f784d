-- Where a thread was off its processor while it was in an operator: the innermost that had begun, and how long.
SELECT s.pid, s.tid, c.call_id, s.start_ns, s.end_ns, s.state
FROM thread_state s ASOF JOIN (SELECT * FROM api_call WHERE kind = 'operator' AND end_ns IS NOT NULL) c
    ON s.pid = c.pid AND s.tid = c.tid AND s.start_ns >= c.start_ns
