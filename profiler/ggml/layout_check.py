"""Does a layout fit the live tensors? The invariants that every ggml graph obeys.

For every tensor (nodes and their sources): a known type, an operator below the number of operators, no negative
dimension, a printable NUL-terminated name, sources that are null or tensors themselves. For most: strides that
follow from type and shape (views and permutations differ), and nodes that compute something. For matrix products:
shapes that multiply.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from flowprof.profiler.ggml.layout import GraphLayout, Layouts, TensorLayout
from flowprof.profiler.ggml.names import OpNames
from flowprof.profiler.memory import Memory, Unreadable

MAX_NODES = 65_536
SAMPLE = 512  # tensors looked at; a wrong layout fails on the first few
MAX_DIM = 1 << 40
_USER_SPACE = 1 << 57
Rows = npt.NDArray[np.void]
U64 = npt.NDArray[np.uint64]


def read_node_addresses(memory: Memory, address: int, graph: GraphLayout) -> tuple[bytes, U64, U64]:
    """The graph's header, the addresses of its nodes and of its leafs. Raises Unreadable when there is no graph."""
    header = memory.read(address, graph.extent)
    n_nodes, n_leafs = _count(header, graph.n_nodes), _count(header, graph.n_leafs)
    if not 1 <= n_nodes <= MAX_NODES or not 0 <= n_leafs <= MAX_NODES:
        raise Unreadable(f"a graph of {n_nodes} nodes and {n_leafs} leafs")
    return (
        header,
        _pointers(memory, address, header, graph, graph.nodes, n_nodes),
        _pointers(memory, address, header, graph, graph.leafs, n_leafs),
    )


def _count(header: bytes, offset: int | None) -> int:
    return 0 if offset is None else int.from_bytes(header[offset : offset + 4], "little", signed=True)


def _pointers(memory: Memory, address: int, header: bytes, graph: GraphLayout, offset: int | None, count: int) -> U64:
    if count == 0 or offset is None:
        return np.empty(0, dtype=np.uint64)
    where = address + offset if graph.inline else int.from_bytes(header[offset : offset + 8], "little")
    return memory.read_words(where, count)


def check(memory: Memory, cgraph_address: int, layouts: Layouts, names: OpNames) -> list[str]:
    """What is wrong with `layouts` on the live graph; empty when it fits."""
    try:
        _, nodes, leafs = read_node_addresses(memory, cgraph_address, layouts.graph)
    except Unreadable as error:
        return [error.message]
    tensor = layouts.tensor
    chosen = nodes[sample(len(nodes))]
    rows, readable = _read(memory, chosen, tensor)
    if not readable.all():
        return [f"{int((~readable).sum())} of {len(chosen)} node pointers lead nowhere"]
    violations = tensor_violations(rows, names, "node")
    if np.mean(rows["op"] != 0) < 0.9:
        violations.append("most nodes have no operator")
    if np.mean(rows["src"][:, 0] != 0) < 0.9:
        violations.append("most nodes have no first source")
    if np.mean(rows["name"][:, 0] != 0) < 0.9:
        violations.append("most nodes have no name")
    if violations:
        return violations
    sources = np.unique(rows["src"])
    sources = sources[sources != 0]
    others = np.concatenate([sources, leafs])[: 4 * SAMPLE]
    other_rows, other_readable = _read(memory, others, tensor)
    if not other_readable.all():
        return [f"{int((~other_readable).sum())} of {len(others)} source pointers lead nowhere"]
    violations = tensor_violations(other_rows, names, "source")
    if not len(sources) and len(nodes) > 1:
        violations.append("no node has a source")
    return violations or _matrix_products(rows, others, other_rows, names)


def sample(count: int) -> npt.NDArray[np.intp]:
    """Up to SAMPLE indices spread over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.intp))


def _read(memory: Memory, addresses: U64, tensor: TensorLayout) -> tuple[Rows, npt.NDArray[np.bool_]]:
    if not len(addresses):
        return np.empty(0, dtype=tensor.dtype()), np.empty(0, dtype=np.bool_)
    raw, readable = memory.read_rows(np.where(plausible(addresses), addresses, 0).astype(np.uint64), tensor.extent)
    return raw.view(tensor.dtype())[:, 0], readable


def plausible(addresses: U64, align: int = 8) -> npt.NDArray[np.bool_]:
    """Could be pointers to something in user space."""
    fine: npt.NDArray[np.bool_] = (addresses % align == 0) & (addresses > 4096) & (addresses < _USER_SPACE)
    return fine


def stride_matches(ne: npt.NDArray[np.int64], nb: U64) -> npt.NDArray[np.bool_]:
    """Rows whose outer strides are those of a dense tensor."""
    fine: npt.NDArray[np.bool_] = (nb[:, 2] == nb[:, 1] * ne[:, 1].astype(np.uint64)) & (
        nb[:, 3] == nb[:, 2] * ne[:, 2].astype(np.uint64)
    )
    return fine


def tensor_violations(rows: Rows, names: OpNames, what: str) -> list[str]:
    """Invariants of single tensors."""
    if not len(rows):
        return []
    faults: list[str] = []
    block = np.array([trait.block_size for trait in names.types], dtype=np.int64)
    size = np.array([trait.type_size for trait in names.types], dtype=np.uint64)
    known = rows["type"] < len(block)
    kind = np.where(known, rows["type"], 0)
    known &= block[kind] > 0
    if not known.all():
        faults.append(f"{what} of unknown type {int(rows['type'][~known][0])}")
    if (rows["op"] >= len(names.ops)).any():
        faults.append(f"{what} with operator number {int(rows['op'].max())} of {len(names.ops)}")
    ne, nb = rows["ne"], rows["nb"]
    if (ne < 0).any() or (ne > MAX_DIM).any():
        faults.append(f"{what} with an impossible shape")
    if not named(rows["name"]).all():
        faults.append(f"{what} whose name is no text")
    if faults:
        return faults
    row_bytes = (ne[:, 0] // np.maximum(block[kind], 1)).astype(np.uint64) * size[kind]
    dense = (nb[:, 0] == size[kind]) & (nb[:, 1] == row_bytes) & stride_matches(ne, nb)
    if np.mean(dense) < 0.5:
        faults.append(f"strides of most {what}s do not follow from type and shape")
    own = (rows["op"] == 0) | ~np.isin(rows["op"], list(names.empty_ops))  # not views of something else
    if own.any() and np.mean((nb[:, 0] == size[kind])[own]) < 0.9:
        faults.append(f"element sizes of {what}s do not follow from their types")
    return faults


def named(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Rows that start with a NUL-terminated text without control characters."""
    nul = raw == 0
    control = ((raw < 32) | (raw == 127)) & (np.arange(raw.shape[1]) < nul.argmax(axis=1)[:, None])
    fine: npt.NDArray[np.bool_] = nul.any(axis=1) & ~control.any(axis=1)
    return fine


def _matrix_products(rows: Rows, others: U64, other_rows: Rows, names: OpNames) -> list[str]:
    """MUL_MAT: both sources share ne[0]; the result is src0's rows by src1's rows."""
    number = names.op_number("MUL_MAT")
    products = rows[rows["op"] == number] if number is not None else rows[:0]
    order = np.argsort(others)
    for product in products[:64]:
        pair = np.searchsorted(others, product["src"][:2], sorter=order)
        if (pair >= len(others)).any() or (others[order[pair]] != product["src"][:2]).any():
            continue  # not among the tensors that were read
        left, right = other_rows[order[pair]]["ne"]
        if left[0] != right[0] or product["ne"][0] != left[1] or product["ne"][1] != right[1]:
            return ["a matrix product whose shapes do not multiply"]
    return []
