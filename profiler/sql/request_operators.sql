-- The operators that took most of each request's graphs, by phase: of a graph that several requests share, each has its
-- share of the tokens. Only of graphs whose operators were measured; `of_graphs` are all of the request in that phase.
WITH part AS MATERIALIZED (
    SELECT r.pid, r.task, r.exec_id, r.share, g.phase, d.exec_id IS NOT NULL AS measured
    FROM request_graph r
    JOIN graph_exec e USING (exec_id) JOIN graph g USING (graph_id)
    LEFT JOIN measured_graph d USING (exec_id)
    WHERE r.task IS NOT NULL
), wanted AS MATERIALIZED (
    SELECT DISTINCT exec_id, graph_id FROM part JOIN graph_exec USING (exec_id) WHERE measured
), node AS MATERIALIZED (                 -- a small number instead of two names
    SELECT graph_id, node_index, op, coalesce(block, '') AS block,
           (dense_rank() OVER (ORDER BY op, coalesce(block, '')))::INTEGER AS what
    FROM graph_node WHERE NOT leaf AND graph_id IN (SELECT graph_id FROM wanted)
), named AS (
    SELECT DISTINCT what, op, block FROM node
), spent AS MATERIALIZED (
    SELECT o.exec_id, n.what, sum(o.end_ns - o.start_ns) AS ns
    FROM op_exec o JOIN wanted w USING (exec_id)
    JOIN node n ON n.graph_id = w.graph_id AND n.node_index = o.node_index
    WHERE o.ith = 0 AND o.end_ns IS NOT NULL
    GROUP BY o.exec_id, n.what
), seen AS (
    SELECT pid, task, phase, count(*) FILTER (measured) AS graphs, count(*) AS of_graphs FROM part GROUP BY ALL
), each AS (
    SELECT p.pid, p.task, p.phase, s.what, sum(s.ns * p.share) AS ns
    FROM part p JOIN spent s USING (exec_id) GROUP BY ALL
)
SELECT e.pid, e.task, e.phase, n.op, n.block, e.ns::DOUBLE, s.graphs, s.of_graphs,
       (e.ns / sum(e.ns) OVER (PARTITION BY e.pid, e.task, e.phase))::DOUBLE AS part
FROM each e JOIN named n USING (what)
JOIN seen s ON s.pid = e.pid AND s.task = e.task AND s.phase IS NOT DISTINCT FROM e.phase
QUALIFY row_number() OVER (PARTITION BY e.pid, e.task, e.phase ORDER BY e.ns DESC, n.op, n.block) <= $most
ORDER BY e.pid, e.task, e.phase DESC, e.ns DESC;
