-- How attention is computed, and in which type its keys are kept. ggml: FLASH_ATTN_EXT, or the product that llama.cpp
-- names kq-<layer>; the second source of the one, and the first of the other, is k.
SELECT DISTINCT CASE WHEN n.op = 'FLASH_ATTN_EXT' THEN 'flash attention' ELSE 'KQ, softmax, KQV' END AS kind, k.type
FROM graph_node n
JOIN graph_node k ON k.graph_id = n.graph_id
    AND k.node_index = CASE WHEN n.op = 'FLASH_ATTN_EXT' THEN n.sources[2] ELSE n.sources[1] END
WHERE NOT n.leaf AND (n.op = 'FLASH_ATTN_EXT' OR n.op = 'MUL_MAT' AND regexp_matches(n.name, '^kq(-\d+)?$'))
ORDER BY ALL
LIMIT 6
