-- Torch's operators that returned, and collectives where they run, by process, thread and start. kind: 0 arithmetic, 1
-- copies, 2 collectives as they are asked for, 3 whatever a data loader's threads call, 4 collectives as they run or are
-- waited for. family: the process; of a data loader's process the one that started it. TorchScript's interpreter calls
-- operators that are not seen one by one: while it runs it counts as arithmetic.
WITH loader AS (SELECT pid, tid FROM thread WHERE starts_with(comm, 'pt_data_'))
SELECT coalesce(p.ppid, c.pid, -1)::BIGINT AS family, coalesce(c.pid, -1)::BIGINT AS pid, coalesce(c.tid, -1) AS tid,
       (CASE WHEN l.pid IS NOT NULL THEN 3
             WHEN c.kind = 'collective' OR c.name = 'c10d::wait' THEN 4
             WHEN starts_with(c.name, 'c10d::') OR starts_with(c.name, '_c10d_functional::') THEN 2
             WHEN regexp_matches(c.name, '^aten::(copy_|_to_copy|to|clone|contiguous|_copy_from)$') THEN 1
             ELSE 0 END)::TINYINT AS kind,
       c.start_ns, c.end_ns
FROM api_call c
LEFT JOIN loader l ON l.pid = c.pid AND l.tid = c.tid
LEFT JOIN process p ON p.pid = c.pid AND EXISTS (FROM loader WHERE loader.pid = c.pid AND loader.tid = c.pid)
    AND p.ppid IN (SELECT pid FROM api_call WHERE kind = 'operator')
WHERE (c.kind IN ('operator', 'collective') OR (c.kind = 'annotation' AND c.name = 'TorchScript')) AND c.end_ns > c.start_ns
ORDER BY 2, 3, 5
