"""Cells of the KV cache in use over time, from the positions of the tokens in the batches.

A sequence whose last token stood at position p has p + 1 cells; a prompt that begins anew begins at 0. What a server
does between batches is not seen: cells that it gives back early, or shifts, count until the next batch of that
sequence. Cells of sequences that were not computed in the recording are not known and not counted.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from flowprof.profiler.analyzers.request_facts import Batches
from flowprof.profiler.sections.requests import KvCache, KvPoint
from flowprof.profiler.store import Recording

MAX_POINTS = 400
CAPACITY_SQL = """
SELECT max(n.ne[2] * greatest(n.ne[3], 1))
FROM graph_node n JOIN graph g USING (graph_id) WHERE g.pid = ? AND n.leaf AND n.name LIKE 'cache\\_k\\_l%' ESCAPE '\\'
"""


def kv_cache(recording: Recording, pid: int, batches: Batches, start_ns: int) -> KvCache | None:
    """None where no batches were recorded."""
    if not len(batches.at):
        return None
    total = np.cumsum(_changes(batches))[batches.first[1:] - 1]  # after each batch
    edges = np.unique(np.linspace(0, len(total), min(MAX_POINTS, len(total)) + 1).astype(int))
    highest = [int(a + np.argmax(total[a:b])) for a, b in pairwise(edges.tolist())]
    points = tuple(KvPoint(int(batches.at[i]) - start_ns, int(total[i])) for i in highest)
    capacity = recording.rows(CAPACITY_SQL, [pid])[0][0]
    return KvCache(pid, points, int(total.max()), None if capacity is None else int(capacity))


def _changes(batches: Batches) -> np.ndarray:
    """By how many cells each part changes what its sequence has in the main context's cache."""
    mine = np.flatnonzero(batches.main)
    cells, sequence = (batches.position + batches.tokens)[mine], batches.sequence[mine]
    order = np.lexsort((mine, sequence))
    before = np.append(0, cells[order][:-1])
    before[np.append(True, sequence[order][1:] != sequence[order][:-1])] = 0
    change = np.zeros(len(batches.main), np.int64)
    change[mine[order]] = cells[order] - before
    return change
