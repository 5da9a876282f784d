"""What each operator of a graph has to compute and to move: FLOPs and bytes from shapes and types (pure).

`node_cost` counts one call, `graph_costs` a whole graph. The formulas, their sources and what they leave out are
described in cost_formulas.py; `Cost.formula` is the id used there.

Bytes are those that a perfect implementation moves between memory and the operator: every source once, the result
once. A weight is read once per call whatever the batch (kernels are blocked); a KV cache shared by several query heads
once; a view counts its elements, not the gaps between them. Whether bytes come from DRAM or from a cache is not known
here: activations usually come from a cache, weights from DRAM when the model is larger than the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from flowprof.profiler.ggml.model_facts import find_weights
from flowprof.profiler.roofline.cost_bytes import Tensor
from flowprof.profiler.roofline.cost_formulas import NO_WORK, formula_of

__all__ = ["Columns", "Cost", "GraphCost", "Shape", "Structure", "Tensor", "graph_costs", "node_cost"]

_VIEWS = NO_WORK - {"NONE"}
_DESTINATION = {"CPY": 1, "SET_ROWS": 2}  # the source of which the result is a view


@dataclass(frozen=True, slots=True)
class Cost:
    """One call of one operator."""

    flops: float | None  # multiply-add = 2; None: unknown
    path: str  # instruction path whose GEMM peak is the ceiling: int8, bf16, f16, f32; "": no product, f32 vectors
    weight_bytes: int  # weights read: of experts those used, of a lookup table the rows looked up
    read_bytes: int  # activations and cache read
    write_bytes: int
    formula: str
    cache_bytes: int | None = None  # part of read_bytes: of a cache or recurrent state; None: the graph is not known


@dataclass(frozen=True, slots=True)
class GraphCost:
    """One execution of a graph."""

    weight_bytes: int  # every weight once, though two operators read it (tied embeddings)
    read_bytes: int  # activations and cache, as often as operators read them
    write_bytes: int
    flops: float  # of the operators whose FLOPs are known
    kv_bytes: int  # part of read_bytes: cache and recurrent state, each once
    unknown: int  # operators that flops leaves out


Shape = tuple[str, tuple[int, int, int, int], int]  # type, ne, bytes of the elements


class Columns(Protocol):
    """A dict of lists, a data frame, a query result."""

    def __getitem__(self, name: str, /) -> Any: ...


def node_cost(op: str, result: Tensor, sources: Sequence[Tensor], experts_used: float | None = None) -> Cost | None:
    """The cost of one call. None: the operator is unknown, or sources are missing.

    `experts_used`: how many different experts a MUL_MAT_ID (ADD_ID) really read (on average), where the recording
    knows. Otherwise the expectation under uniform routing, E·(1 − (1 − k/E)^T) for T tokens that use k of E experts
    each: exactly k for one token, usually too many for more. The FLOPs are those of all k·T rows in either case.
    """
    counted = _counted(op, *_with_local_keys(result, sources), experts_used)
    return None if counted is None else replace(counted[0], cache_bytes=None)


def graph_costs(
    frame: Columns, experts_used: Mapping[int, float] | None = None
) -> tuple[dict[int, Cost | None], GraphCost]:
    """Cost of each executing node by its index, and of the graph.

    `frame`: columns op, name, type, ne, data_bytes, leaf, executes, sources as table graph_node has them, one graph,
    nodes then leaves in order of node_index. `experts_used`: by node index, where known.

    The cache is what leaves hold that are called `cache_…` or that the graph writes into (whisper.cpp names none); of
    each, kv_bytes has the most that one operator reads.
    """
    sources = [_integers(row) for row in frame["sources"]]
    n_nodes = sum(1 for leaf in frame["leaf"] if not leaf)
    structure = Structure(list(frame["op"]), list(frame["name"]), sources, list(frame["executes"]), n_nodes)
    sizes = (int(size) for size in frame["data_bytes"])
    return structure.costs(list(zip(frame["type"], map(_shape, frame["ne"]), sizes, strict=True)), experts_used or {})


@dataclass(frozen=True, slots=True)
class _Call:
    """An executing node. keys, weights, cached: of its result and its sources, the underlying tensor, and whether that
    is a weight, or a cache. kept: those of its sources that are either: source, key, whether a weight."""

    node: int
    op: str
    tensors: tuple[int, ...]  # the result, the sources
    keys: tuple[int, ...]
    weights: tuple[bool, ...]
    cached: tuple[bool, ...]
    kept: tuple[tuple[int, int, bool], ...]
    counted: dict[tuple[object, ...], tuple[Cost, tuple[int, ...]] | None]  # by experts used and shapes

    def count(self, shapes: Sequence[Shape], experts_used: float | None) -> tuple[Cost, tuple[int, ...]] | None:
        of = (experts_used, *(shapes[at] for at in self.tensors))
        if of not in self.counted:
            result, *inputs = (
                Tensor(*shapes[at], weight, self.keys.index(key))
                for at, key, weight in zip(self.tensors, self.keys, self.weights, strict=True)
            )
            counted = _counted(self.op, result, tuple(inputs), experts_used)
            if counted is not None and any(self.cached[1:]):
                cost, reads = counted
                far = sum(size for size, cached in zip(reads, self.cached[1:], strict=True) if cached)
                counted = replace(cost, cache_bytes=far), reads
            self.counted[of] = counted
        return self.counted[of]


class Structure:
    """A graph without its shapes: those of a growing context share it, and a call with known shapes is counted once."""

    def __init__(
        self, ops: Sequence[str], names: Sequence[str], sources: Sequence[tuple[int, ...]], executes: Sequence[bool],
        n_nodes: int,
    ) -> None:  # fmt: skip
        key = _underlying(ops, sources, n_nodes)
        self.weights = find_weights(names, ops, sources, n_nodes)
        self._caches = _caches(names, ops, sources, key, n_nodes) - self.weights
        self._calls = []
        for node in range(n_nodes):
            if executes[node]:
                tensors = (node, *sources[node])
                keys = tuple(key[at] for at in tensors)
                weights = tuple(k in self.weights for k in keys)
                cached = tuple(k in self._caches for k in keys)
                sides = enumerate(zip(keys[1:], weights[1:], cached[1:], strict=True))
                kept = tuple((source, k, weight) for source, (k, weight, far) in sides if weight or far)
                self._calls.append(_Call(node, ops[node], tensors, keys, weights, cached, kept, {}))

    def costs(
        self, shapes: Sequence[Shape], experts_used: Mapping[int, float]
    ) -> tuple[dict[int, Cost | None], GraphCost]:
        """As graph_costs. shapes: of all tensors."""
        costs: dict[int, Cost | None] = {}
        weight_read: dict[int, int] = {}
        cache_read: dict[int, int] = {}
        read = written = unknown = 0
        flops = 0.0
        for call in self._calls:
            counted = call.count(shapes, experts_used.get(call.node))
            if counted is None:
                costs[call.node] = None
                unknown += 1
                continue
            cost, reads = counted
            costs[call.node] = cost
            read += cost.read_bytes
            written += cost.write_bytes
            if cost.flops is None:
                unknown += 1
            else:
                flops += cost.flops
            here: dict[int, int] = {}
            for source, key, weight in call.kept:
                if weight:
                    weight_read[key] = weight_read.get(key, 0) + reads[source]
                else:
                    here[key] = here.get(key, 0) + reads[source]
            for key, size in here.items():
                cache_read[key] = max(cache_read.get(key, 0), size)
        total = GraphCost(
            weight_bytes=sum(min(size, shapes[key][2]) for key, size in weight_read.items()),
            read_bytes=read,
            write_bytes=written,
            flops=flops,
            kv_bytes=sum(cache_read.values()),
            unknown=unknown,
        )
        return costs, total


@lru_cache(maxsize=1 << 16)
def _counted(
    op: str, result: Tensor, sources: tuple[Tensor, ...], experts_used: float | None
) -> tuple[Cost, tuple[int, ...]] | None:
    """Cost, and bytes read of each source. Keys are local, so that like nodes of all layers are counted once."""
    formula = formula_of(op)
    if formula is None or len(sources) < formula.sources:
        return None
    reads = formula.reads(result, sources, experts_used)
    of_weights = sum(size for size, source in zip(reads, sources, strict=True) if source.weight)
    cost = Cost(
        flops=formula.flops(result, sources),
        path=formula.path(sources),
        weight_bytes=of_weights,
        read_bytes=sum(reads) - of_weights,
        write_bytes=formula.writes(result, sources),
        formula=formula.name,
        cache_bytes=0,
    )
    return cost, reads


def _with_local_keys(result: Tensor, sources: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Keys replaced by the place of the first tensor that has the same."""
    keys = [result.key, *(source.key for source in sources)]
    first, *others = (Tensor(t.type, t.ne, t.data_bytes, t.weight, keys.index(t.key)) for t in (result, *sources))
    return first, tuple(others)


def _integers(row: Iterable[Any]) -> tuple[int, ...]:
    """A row of a list column: list, tuple or numpy array."""
    return tuple(row.tolist() if hasattr(row, "tolist") else row)


def _shape(row: Iterable[Any]) -> tuple[int, int, int, int]:
    first, second, third, fourth = _integers(row)
    return first, second, third, fourth


def _underlying(ops: Sequence[str], sources: Sequence[Sequence[int]], n_nodes: int) -> list[int]:
    """For each tensor the one whose memory it shows, as far as operators tell: other in-place results are their own."""
    key = list(range(len(ops)))
    for node in range(n_nodes):
        slot = 0 if ops[node] in _VIEWS else _DESTINATION.get(ops[node])
        if slot is not None and slot < len(sources[node]):
            key[node] = key[sources[node][slot]]
    return key


def _caches(
    names: Sequence[str], ops: Sequence[str], sources: Sequence[Sequence[int]], key: Sequence[int], n_nodes: int
) -> frozenset[int]:
    named = {at for at in range(n_nodes, len(names)) if names[at].startswith("cache_")}
    written = {key[node] for node in range(n_nodes) if ops[node] in _DESTINATION and key[node] >= n_nodes}
    return frozenset(named | written)
