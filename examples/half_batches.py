"""`overlap.split`: products, attention over the KV cache and a collective take turns, each with a resource of its own.

They depend on each other, so that only half batches in turn have work for two resources at a time (NanoFlow). The
report gives the gain at no price, with interference, and after the split, and the schedule that would have it. The
times are NanoFlow's own (arXiv 2408.12757, table 2) of a layer of LLaMA-2-70B on one of eight A100.
"""

from __future__ import annotations

import sys

from flowprof.examples.traced import Trace, Traced, show

LAYERS, BATCH, HIDDEN, INTER, GPUS = 80, 2048, 8192, 28672, 8
QUERIES, CONTEXT, HEADS, WIDTH = 1365, 1024, 8, 128  # sequences that decode, their length, heads of one GPU


def write(trace: Trace) -> None:
    at = 1e6
    for layer in range(LAYERS):
        launched = 10.0 * layer
        at = trace.product(at, 201, BATCH, HIDDEN, (HIDDEN + 2 * HIDDEN // 8) // GPUS, launched=launched)
        query, cache = (QUERIES, HEADS, 1, WIDTH), (QUERIES, 1, CONTEXT, WIDTH)
        at = trace.work("flash_fwd", at, 445, operator="aten::_scaled_dot_product_flash_attention",
                        shapes=(query, cache, cache), launched=launched + 2)  # fmt: skip
        at = trace.product(at, 200, BATCH, HIDDEN // GPUS, HIDDEN, launched=launched + 4)
        at = trace.work("ncclDevKernel_AllReduce_Sum_f16", at, 599, launched=launched + 5)
        at = trace.product(at, 874, BATCH, HIDDEN, 2 * INTER // GPUS, launched=launched + 6)
        at = trace.product(at, 437, BATCH, INTER // GPUS, HIDDEN, launched=launched + 8)


TRACED = Traced("overlap.split", write)

if __name__ == "__main__":
    sys.exit(show(TRACED))
