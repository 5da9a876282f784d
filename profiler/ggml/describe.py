"""A live ggml graph, read from outside and described: what every node is, what it reads, where in the model it
belongs.

The target runs on while it is read. So the header, the node list and the tensors are read a second time at the end,
and the graph's uid is compared with the one that the probe saw: a graph that changed meanwhile raises GraphChanged
and is read again at its next execution, never mis-described.

The compute loop skips nodes whose operator only makes a view, nodes of empty tensors and, in builds that mark the
nodes to compute (flag 0x10), unmarked ones: those do not `execute`. Fused nodes still do here; only the running loop
knows of them.

tokens is ne[1] of the embedding lookup, outputs ne[1] of the logits. outputs = tokens: decode (every sequence
advances by one token); at most one output of several tokens, or none: prefill; else mixed; without either: other.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.ggml.blocks import place_nodes
from flowprof.profiler.ggml.layout import NAME_SIZE, Layouts, TensorLayout
from flowprof.profiler.ggml.layout_check import MAX_DIM, Rows, named, read_node_addresses
from flowprof.profiler.ggml.model_facts import ModelFacts, model_facts
from flowprof.profiler.ggml.names import OpNames
from flowprof.profiler.memory import Addresses, Memory, Unreadable

_COMPUTE_FLAG = 0x10
_SUB_OPS = ("UNARY", "GLU")
PLACES = ("view_src", "data", "buffer")  # fields of a tensor that say where its data lies, not what it is


class GraphChanged(FlowprofError):  # noqa: N818 (it says what happened, and is not always an error)
    """The graph was rebuilt while it was read, or before. Try again with the next execution."""


@dataclass(frozen=True, slots=True)
class GraphDescription:
    """Nodes 0 … n_nodes-1 in order of execution, then leaves (weights, inputs). All sequences have the same length."""

    uid: int | None  # None: the build has none; 0: not set
    n_nodes: int
    addresses: Addresses
    op: tuple[str, ...]
    name: tuple[str, ...]
    type: tuple[str, ...]
    ne: npt.NDArray[np.int64]  # [n, 4]
    nb: npt.NDArray[np.int64]  # [n, 4] bytes
    flags: npt.NDArray[np.uint32]
    sources: tuple[tuple[int, ...], ...]  # indices; null sources are left out
    size_bytes: npt.NDArray[np.int64]  # from the first element to the last
    data_bytes: npt.NDArray[np.int64]  # the elements' own, without what lies between them
    leaf: npt.NDArray[np.bool_]
    executes: npt.NDArray[np.bool_]
    layer: tuple[int | None, ...]
    block: tuple[str, ...]
    tokens: int | None
    outputs: int | None
    phase: str
    model: ModelFacts

    @property
    def operators(self) -> int:
        """Nodes that execute."""
        return int(self.executes.sum())


@dataclass(frozen=True, slots=True)
class LiveGraph:
    """A graph as it was read: `n_nodes` nodes in order of execution, then leaves."""

    uid: int | None
    n_nodes: int
    addresses: Addresses
    rows: Rows
    sources: npt.NDArray[np.int64]  # [n, most] index of each source; -1: none
    raw: npt.NDArray[np.uint8]  # [n_nodes, size of a tensor] as they were read

    def content(self) -> bytes:
        """A digest of all that a description is made of. Engines rebuild the same graph at every request."""
        digest = hashlib.blake2b(self.n_nodes.to_bytes(4, "little"), digest_size=16)
        for field in self.rows.dtype.names or ():
            if field != "src" and field not in PLACES:
                digest.update(self.rows[field].tobytes())
        digest.update(self.sources.tobytes())
        return digest.digest()


def read_graph(
    memory: Memory, cgraph_address: int, layouts: Layouts, names: OpNames, expected_uid: int | None = None
) -> LiveGraph:
    """Read the graph at `cgraph_address`. `expected_uid`: the uid that the probe read there, when there is one.

    Raises GraphChanged (retry), MemoryGone, PermissionDeniedError.
    """
    try:
        header, nodes, leafs = _nodes(memory, cgraph_address, layouts, expected_uid)
        node_rows = _tensors(memory, nodes, layouts.tensor)
        leaves = _leaves(nodes, leafs, node_rows)
        rows = np.concatenate([node_rows, _tensors(memory, leaves, layouts.tensor)])
        again_header, again_nodes, _ = read_node_addresses(memory, cgraph_address, layouts.graph)
        unchanged = header == again_header and np.array_equal(nodes, again_nodes)
        unchanged = unchanged and _same(node_rows, _tensors(memory, nodes, layouts.tensor))
    except Unreadable as error:
        raise GraphChanged(f"the graph at 0x{cgraph_address:x} vanished while it was read: {error.message}") from error
    if not unchanged:
        raise GraphChanged(f"the graph at 0x{cgraph_address:x} was rebuilt while it was read")
    _refuse_nonsense(rows, names)
    addresses = np.concatenate([nodes, leaves])
    uid = _uid(header, layouts)
    return LiveGraph(uid, len(nodes), addresses, rows, _source_indices(addresses, rows["src"]), _bytes(node_rows))


def read_again(
    memory: Memory, cgraph_address: int, layouts: Layouts, expected_uid: int | None, earlier: Iterable[LiveGraph]
) -> LiveGraph | None:
    """The one of some earlier graphs that the graph at `cgraph_address` equals, in content and place; None: none does.

    Engines build the same graph in the same memory at every request: this takes a quarter of the time of reading it as
    if it were new.

    Raises GraphChanged (retry), MemoryGone, PermissionDeniedError.
    """
    try:
        header, nodes, _ = _nodes(memory, cgraph_address, layouts, expected_uid)
        there = [graph for graph in earlier if np.array_equal(graph.addresses[: graph.n_nodes], nodes)]
        if not there:
            return None
        rows = _tensors(memory, nodes, layouts.tensor)
        if memory.read(cgraph_address, layouts.graph.extent) != header:
            raise GraphChanged(f"the graph at 0x{cgraph_address:x} was rebuilt while it was read")
    except Unreadable as error:
        raise GraphChanged(f"the graph at 0x{cgraph_address:x} vanished while it was read: {error.message}") from error
    asked = _compared(rows.dtype)
    for graph in there:
        if not ((graph.raw ^ _bytes(rows)) & asked).any():
            return graph
    return None


def _nodes(
    memory: Memory, cgraph_address: int, layouts: Layouts, expected_uid: int | None
) -> tuple[bytes, Addresses, Addresses]:
    """Header, nodes and leafs of the graph that is there now, which must be the one that the probe saw."""
    header, nodes, leafs = read_node_addresses(memory, cgraph_address, layouts.graph)
    uid = _uid(header, layouts)
    if expected_uid is not None and uid is not None and uid != expected_uid:
        raise GraphChanged(f"the graph at 0x{cgraph_address:x} is another one by now (uid {uid}, not {expected_uid})")
    return header, nodes, leafs


@functools.lru_cache(maxsize=4)
def _compared(layout: np.dtype[np.void]) -> npt.NDArray[np.uint8]:
    """The bytes of a tensor that a description is made of, as a mask; the others say where its data lies."""
    mask = np.zeros(layout.itemsize, np.uint8)
    for name, (field, offset, *_) in (layout.fields or {}).items():
        if name not in PLACES:
            mask[offset : offset + field.itemsize] = 0xFF
    return mask


def _bytes(rows: Rows) -> npt.NDArray[np.uint8]:
    return rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)


def _uid(header: bytes, layouts: Layouts) -> int | None:
    offset = layouts.graph.uid
    return None if offset is None else int.from_bytes(header[offset : offset + 8], "little")


def _tensors(memory: Memory, addresses: Addresses, layout: TensorLayout) -> Rows:
    if not len(addresses):
        return np.empty(0, dtype=layout.dtype())
    raw, readable = memory.read_rows(addresses, layout.extent)
    if not readable.all():
        raise Unreadable(f"{int((~readable).sum())} of {len(addresses)} tensors are gone")
    return raw.view(layout.dtype())[:, 0]


def _leaves(nodes: Addresses, leafs: Addresses, node_rows: Rows) -> Addresses:
    """The leafs, and every source that is neither leaf nor node (in a part of a split graph none is listed)."""
    sources = node_rows["src"].ravel()
    others = np.concatenate([leafs, sources[sources != 0]])
    others = others[~np.isin(others, nodes)]
    _, first = np.unique(others, return_index=True)
    leaves: Addresses = others[np.sort(first)]
    return leaves


def _same(before: Rows, after: Rows) -> bool:
    return all(np.array_equal(before[field], after[field]) for field in ("op", "type", "ne", "src", "name"))


def _refuse_nonsense(rows: Rows, names: OpNames) -> None:
    """A layout that was right for another graph must be right for this one; freed memory rarely is."""
    if (
        (rows["op"] >= len(names.ops)).any()
        or (rows["type"] >= len(names.types)).any()
        or (rows["ne"] < 0).any()
        or (rows["ne"] > MAX_DIM).any()
        or not named(rows["name"]).all()
    ):
        raise GraphChanged("the graph holds tensors that are none: it was freed meanwhile")


def describe(graph: LiveGraph, names: OpNames) -> GraphDescription:
    """What a graph that was read means."""
    rows, n_nodes = graph.rows, graph.n_nodes
    op = _ops(rows, names)
    base = [names.ops[number] for number in rows["op"]]
    types = tuple(names.types[number].name for number in rows["type"])
    text = np.ascontiguousarray(rows["name"]).view(f"S{NAME_SIZE}")[:, 0].tolist()
    name = tuple(raw.partition(b"\0")[0].decode("utf-8", "replace") for raw in text)
    sources = tuple(tuple(at for at in row if at >= 0) for row in graph.sources.tolist())
    size_bytes = _sizes(rows, names)
    flags = rows["flags"].copy() if "flags" in (rows.dtype.names or ()) else np.zeros(len(rows), dtype=np.uint32)
    leaf = np.arange(len(rows)) >= n_nodes
    places = place_nodes(name, base, sources, n_nodes)
    layer = tuple(place[0] for place in places)
    ne = rows["ne"].astype(np.int64)
    model = model_facts(name, base, types, sources, ne, size_bytes, layer, n_nodes)
    tokens = _tokens(name, base, sources, ne, n_nodes)
    outputs = _outputs(name, base, sources, ne, n_nodes, model.vocabulary)
    return GraphDescription(
        uid=graph.uid,
        n_nodes=n_nodes,
        addresses=graph.addresses,
        op=op,
        name=name,
        type=types,
        ne=ne,
        nb=rows["nb"].astype(np.int64),
        flags=flags,
        sources=sources,
        size_bytes=size_bytes,
        data_bytes=_data_bytes(rows, names),
        leaf=leaf,
        executes=_executes(rows, flags, leaf, names),
        layer=layer,
        block=tuple(place[1] for place in places),
        tokens=tokens,
        outputs=outputs,
        phase=phase_of(tokens, outputs),
        model=model,
    )


def _ops(rows: Rows, names: OpNames) -> tuple[str, ...]:
    """Operator names; UNARY and GLU, which say little alone, with the function that they apply: `UNARY(SILU)`."""
    ops = [names.ops[number] for number in rows["op"]]
    if "op_params" not in (rows.dtype.names or ()):
        return tuple(ops)
    for family, members in zip(_SUB_OPS, (names.unary, names.glu), strict=True):
        number = names.op_number(family)
        for at in np.flatnonzero(rows["op"] == number) if number is not None else ():
            sub = int(rows["op_params"][at])
            if 0 <= sub < len(members):
                ops[at] = f"{family}({members[sub]})"
    return tuple(ops)


def _source_indices(addresses: Addresses, src: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    order = np.argsort(addresses)
    found = np.minimum(np.searchsorted(addresses, src, sorter=order), len(addresses) - 1)
    index = order[found]
    indices: npt.NDArray[np.int64] = np.where((addresses[index] == src) & (src != 0), index, -1)
    return indices


def _sizes(rows: Rows, names: OpNames) -> npt.NDArray[np.int64]:
    """ggml_nbytes: from the first element to the last, padding between rows included."""
    block = np.array([max(trait.block_size, 1) for trait in names.types], dtype=np.int64)[rows["type"]]
    unit = np.array([trait.type_size for trait in names.types], dtype=np.int64)[rows["type"]]
    ne, nb = rows["ne"].astype(np.int64), rows["nb"].astype(np.int64)
    first = np.where(block == 1, unit + (ne[:, 0] - 1) * nb[:, 0], ne[:, 0] * nb[:, 0] // block)
    total = first + ((ne[:, 1:] - 1) * nb[:, 1:]).sum(axis=1)
    return np.where((ne <= 0).any(axis=1), 0, total)


def _data_bytes(rows: Rows, names: OpNames) -> npt.NDArray[np.int64]:
    block = np.array([max(trait.block_size, 1) for trait in names.types], dtype=np.int64)[rows["type"]]
    unit = np.array([trait.type_size for trait in names.types], dtype=np.int64)[rows["type"]]
    elements = rows["ne"].astype(np.int64).clip(0).prod(axis=1)
    data_bytes: npt.NDArray[np.int64] = elements // block * unit
    return data_bytes


def _executes(
    rows: Rows, flags: npt.NDArray[np.uint32], leaf: npt.NDArray[np.bool_], names: OpNames
) -> npt.NDArray[np.bool_]:
    runs: npt.NDArray[np.bool_] = ~leaf & ~np.isin(rows["op"], list(names.empty_ops)) & (rows["ne"] > 0).all(axis=1)
    marked = (flags & _COMPUTE_FLAG) != 0
    return runs & marked if marked[~leaf].any() else runs


def _tokens(
    name: tuple[str, ...],
    op: list[str],
    sources: tuple[tuple[int, ...], ...],
    ne: npt.NDArray[np.int64],
    n_nodes: int,
) -> int | None:
    """Rows looked up in the token embedding; the length of the embeddings when they are the input."""
    lookups = [
        node
        for node in range(n_nodes)
        if op[node] == "GET_ROWS" and len(sources[node]) > 1 and min(sources[node]) >= n_nodes
    ]
    by_name = [at for at in lookups if "embd" in name[sources[at][0]] or "token" in name[sources[at][1]]]
    for node in by_name or lookups:
        return int(ne[node, 1])
    for at in range(n_nodes, len(name)):
        if name[at] in ("inp_embd", "embd"):
            return int(ne[at, 1])
    return None


def _outputs(
    name: tuple[str, ...],
    op: list[str],
    sources: tuple[tuple[int, ...], ...],
    ne: npt.NDArray[np.int64],
    n_nodes: int,
    vocabulary: int | None,
) -> int | None:
    """Rows of logits."""
    for node in range(n_nodes - 1, -1, -1):
        if name[node] == "result_output" or (op[node] == "MUL_MAT" and vocabulary and ne[node, 0] == vocabulary):
            return int(ne[node, 1])
    return None


def phase_of(tokens: int | None, outputs: int | None) -> str:
    """decode, prefill, mixed or other; see above."""
    if tokens is None or outputs is None:
        return "other"
    if outputs == tokens:
        return "decode"
    return "prefill" if outputs <= 1 else "mixed"
