"""A graph's tensors with their measured times, and what their names say. Part of dag.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from flowprof.profiler.store import Recording, read_sql

MAX_READ = 200_000  # tensors of one graph
_NUMBER = re.compile(r"-\d{1,5}(?=\.| \(|$)|(?<=\bblk)\.\d{1,5}(?=\.)|_l\d{1,5}(?= \(|$)")
_VIEWED = re.compile(r"( \((view|reshaped|permuted|transposed|cont|copy)[^()]{0,40}\))+$")
_UNNAMED = re.compile(r"^(node_\d+)?$")


@dataclass(slots=True)
class Tensor:
    """One row of graph_node with its measured time."""

    index: int
    leaf: bool
    op: str
    name: str
    type: str
    layer: int | None
    block: str
    ne: tuple[int, ...]
    size_bytes: int
    sources: tuple[int, ...]
    executes: bool
    calls: int = 0
    mean_ns: float = 0.0


def read(recording: Recording, graph_id: int, limit: int = MAX_READ) -> tuple[dict[int, Tensor], int]:
    """The graph's tensors by index, and how many were left unread."""
    rows = recording.rows(read_sql("dag_nodes.sql"), {"graph": graph_id, "limit": limit})
    tensors = {}
    for index, leaf, op, name, kind, layer, block, ne, size, sources, executes, calls, mean in rows:
        tensors[index] = Tensor(
            index, bool(leaf), op or "", name or "", kind or "", layer, block or "other", tuple(ne or ()),
            int(size or 0), tuple(source for source in sources or () if source is not None),
            bool(executes) or calls > 0, calls, float(mean or 0.0),
        )  # fmt: skip
    unread = 0
    if len(rows) == limit:
        unread = recording.rows("SELECT count(*) FROM graph_node WHERE graph_id = ?", (graph_id,))[0][0] - limit
    return tensors, unread


def canonical(name: str) -> str:
    """A tensor's name without its layer's number and without what a view adds; "" for a name that says nothing.

    ffn_up-3 → ffn_up, blk.3.attn_q.weight → blk.attn_q.weight, cache_k_l3 (view) → cache_k.
    """
    name = _NUMBER.sub("", _VIEWED.sub("", name))
    return "" if _UNNAMED.match(name) else name


def leaf_kind(tensor: Tensor) -> Literal["weight", "input", "cache"]:
    """By its name: cache_k_l3, blk.3.attn_q.weight; whatever else the engine fills before a graph runs is input."""
    if tensor.name.startswith(("cache_", "kv_cache", "self_k", "self_v")):
        return "cache"
    return "weight" if tensor.name.endswith((".weight", ".bias", ".scale")) else "input"
