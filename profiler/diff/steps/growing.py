"""What grows with the context: by the graphs themselves, not by names.

Of two graphs with as many tokens and outputs, one of which reads a longer context, an operator grows that has other
FLOPs in it (where it computes none: other bytes read and written). What reads rows of the KV cache grows wherever a
recording begins and ends: a graph says how many it reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from flowprof.profiler.analyzers.verdict_work import GraphWork, Work
from flowprof.profiler.store import Recording

DIFFERS = 0.01
GRAPHS_SQL = """
SELECT graph_id, coalesce(tokens, 1), coalesce(outputs, 0), n_kv FROM graph JOIN graph_context USING (graph_id)
WHERE n_kv > 0
"""

Name = tuple[str, str, str]  # block, op, tensor


def growing(recording: Recording, works: Mapping[int, GraphWork]) -> frozenset[Name]:
    """Of the graphs in `works`, by graph_id."""
    found: set[Name] = set()
    by_batch: dict[tuple[Name, int, int], dict[int, float]] = defaultdict(dict)  # → context → work of one execution
    for graph_id, tokens, outputs, context in recording.rows(GRAPHS_SQL):
        each: dict[Name, float] = defaultdict(float)
        for one in works[graph_id].nodes.values() if graph_id in works else ():
            each[one.block, one.op, one.tensor] += _amount(one)
            if one.context is not None:
                found.add((one.block, one.op, one.tensor))
        for name, amount in each.items():
            by_batch[name, tokens, outputs][context] = amount
    for (name, *_), amounts in by_batch.items():
        if max(amounts.values()) > (1 + DIFFERS) * min(amounts.values()):
            found.add(name)
    return frozenset(found)


def _amount(work: Work) -> float:
    cost = work.cost
    return 0.0 if cost is None else float(cost.flops or cost.read_bytes + cost.write_bytes)
