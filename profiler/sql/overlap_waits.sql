-- Calls in which a thread waits for the device (CUDA's and HIP's synchronise), and those that make a stream wait for an
-- event (event = true), by start. whole: for all streams of a device.
SELECT call_id, coalesce(pid, -1)::BIGINT AS pid, coalesce(tid, -1) AS tid, start_ns, end_ns,
       contains(name, 'StreamWaitEvent') AS event,
       contains(name, 'DeviceSynchronize') OR contains(name, 'CtxSynchronize') AS whole
FROM api_call
WHERE kind IN ('runtime', 'driver') AND (contains(name, 'Synchronize') OR contains(name, 'StreamWaitEvent'))
ORDER BY start_ns
