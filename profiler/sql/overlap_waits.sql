-- Calls in which a thread waits for the device (CUDA's and HIP's synchronise), and those that make a stream wait for an
-- event (event = true), by start. whole: for all streams of a device. waiting, awaited: which stream waits (of events),
-- and for which stream; -1: the trace does not say. recorded_ns: when the call began that recorded the event; NULL: not
-- known.
WITH told AS (
    SELECT w.call_id, any_value(s.waiting_stream) AS waiting, any_value(s.awaited_stream) AS awaited,
           any_value(r.start_ns) AS recorded_ns
    FROM gpu_sync s
    JOIN correlated_call w ON w.correlation = s.correlation AND w.pid IS NOT DISTINCT FROM s.pid
    LEFT JOIN correlated_call x ON x.correlation = s.awaited_record AND x.pid IS NOT DISTINCT FROM s.pid
    LEFT JOIN api_call r ON r.call_id = x.call_id
    GROUP BY w.call_id HAVING count(*) = 1
)
SELECT c.call_id, coalesce(c.pid, -1)::BIGINT AS pid, coalesce(c.tid, -1) AS tid, c.start_ns, c.end_ns,
       contains(c.name, 'StreamWaitEvent') AS event,
       contains(c.name, 'DeviceSynchronize') OR contains(c.name, 'CtxSynchronize') AS whole,
       coalesce(t.waiting, -1) AS waiting, coalesce(t.awaited, -1) AS awaited, t.recorded_ns
FROM api_call c LEFT JOIN told t USING (call_id)
WHERE c.kind IN ('runtime', 'driver') AND (contains(c.name, 'Synchronize') OR contains(c.name, 'StreamWaitEvent'))
ORDER BY c.start_ns
