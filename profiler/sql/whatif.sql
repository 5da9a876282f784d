-- Measured operators by phase, name, tensor (without its layer's number) and block: wall time on the first thread, ns.
SELECT phase, op, regexp_replace(name, '-[0-9]+( |$)', '\1') AS tensor, coalesce(block, 'other') AS block,
       count(*) AS calls, sum(dur_ns)::BIGINT AS ns
FROM measured_operator
GROUP BY ALL
ORDER BY phase, ns DESC, op, tensor;
