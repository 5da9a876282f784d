-- Which first thread's pool a thread worked in, from one execution per first thread.
WITH one AS (
    SELECT o.tid AS driver, max(o.exec_id) AS exec_id
    FROM op_exec o WHERE o.ith = 0 AND o.compute_end_ns IS NOT NULL GROUP BY o.tid
)
SELECT DISTINCT one.driver, o.tid FROM one JOIN op_exec o USING (exec_id);
