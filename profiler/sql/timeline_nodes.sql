-- What the nodes of some graphs are, with a number (from 1) for each distinct kind; shapes are left out unless $shapes.
WITH node AS (
    SELECT graph_id, node_index, coalesce(op, '') AS op, coalesce(name, '') AS name, coalesce(block, '') AS block,
           coalesce(layer, -1) AS layer, coalesce(type, '') AS type,
           CASE WHEN $shapes THEN coalesce(array_to_string(ne, ' × '), '') ELSE '' END AS shape
    FROM graph_node
    WHERE NOT leaf AND coalesce(executes, true) AND list_contains($graphs, graph_id)
)
SELECT graph_id, node_index, op, name, block, layer, type, shape,
       dense_rank() OVER (ORDER BY op, name, block, layer, type, shape) AS kind
FROM node;
