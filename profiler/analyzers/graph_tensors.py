"""The tensors of described graphs, of many graphs at once: most of their tensors are alike. Part of verdict_work.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flowprof.profiler.roofline.costs import Shape, Structure
from flowprof.profiler.store import Recording, read_sql

MAX_TENSORS = 300_000  # of all graphs together; those that come last are left out
AT_ONCE = 50_000
_COUNTS_SQL = "SELECT graph_id, count(*) FROM graph_node WHERE graph_id IN (SELECT unnest($graphs)) GROUP BY graph_id"


@dataclass(frozen=True, slots=True, eq=False)
class TensorRow:
    """A row of graph_node without its shape. part: its number among the different ones; shape None: not whole."""

    index: int
    leaf: bool
    op: str
    name: str
    layer: int | None
    block: str
    sources: tuple[int, ...]
    executes: bool
    part: int
    shape: Shape | None


class Tensors:
    """Reads graphs, and knows which of them have the same structure."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._parts: dict[tuple[object, ...], int] = {}
        self._structures: dict[tuple[int, ...], Structure] = {}

    def read(self, graph_ids: Sequence[int]) -> Iterator[tuple[int, list[TensorRow]]]:
        """Graphs with their tensors, nodes then leaves, in the order asked for, until they are too many."""
        if not graph_ids:
            return
        counts = dict(self._recording.rows(_COUNTS_SQL, {"graphs": list(graph_ids)}))
        size = 0
        chosen: list[int] = []
        for graph_id in graph_ids:
            if size >= MAX_TENSORS:
                break
            chosen.append(graph_id)
            size += counts.get(graph_id, 0)
        while chosen:
            some: list[int] = []
            size = 0
            while chosen and (not some or size + counts.get(chosen[0], 0) <= AT_ONCE):
                size += counts.get(chosen[0], 0)
                some.append(chosen.pop(0))
            rows: dict[int, list[TensorRow]] = defaultdict(list)
            for *row, graphs in self._recording.rows(read_sql("graph_tensors.sql"), {"graphs": some}):
                tensor = self._row(row)
                for graph_id in graphs:
                    rows[graph_id].append(tensor)
            yield from ((graph_id, rows[graph_id]) for graph_id in some)

    def structure(self, rows: Sequence[TensorRow]) -> Structure | None:
        """None when something is missing or points nowhere: a truncated description says nothing."""
        parts = tuple(row.part for row in rows)
        if parts not in self._structures:
            count = len(rows)
            if any(row.index != at or any(not 0 <= source < count for source in row.sources)
                   for at, row in enumerate(rows)):  # fmt: skip
                return None
            self._structures[parts] = Structure(
                [row.op for row in rows], [row.name for row in rows], [row.sources for row in rows],
                [row.executes for row in rows], sum(1 for row in rows if not row.leaf),
            )  # fmt: skip
        return None if any(row.shape is None for row in rows) else self._structures[parts]

    def _row(self, row: Sequence[Any]) -> TensorRow:
        index, leaf, op, name, kind, layer, block, ne, size, sources, executes = row
        whole = isinstance(ne, list) and len(ne) == 4 and isinstance(size, int) and size >= 0
        whole = whole and all(isinstance(extent, int) and extent >= 0 for extent in ne)
        whole = whole and isinstance(sources, list) and all(isinstance(source, int) for source in sources)
        reads = tuple(sources) if whole else ()
        texts = ("" if op is None else str(op), "" if name is None else str(name))
        fixed = (index, bool(leaf), *texts, layer, block or "other", reads, bool(executes))
        shape = ("" if kind is None else str(kind), tuple(ne), size) if whole else None
        return TensorRow(*fixed, self._parts.setdefault(fixed, len(self._parts)), shape)
