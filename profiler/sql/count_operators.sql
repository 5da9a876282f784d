-- After settle_fused.sql: operators per graph, as they ran.
UPDATE graph SET operators = n FROM (
    SELECT graph_id, count(*) AS n FROM graph_node WHERE executes GROUP BY graph_id
) counted WHERE graph.graph_id = counted.graph_id
