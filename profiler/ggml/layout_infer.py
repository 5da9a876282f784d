"""Offsets of ggml's structs, inferred from a live graph when no known layout fits.

The graph first: the word that leads to an array of readable pointers, and the count that says how many. Then the
tensor, field by field, each found by what only that field can hold in every node at once: ne and nb by the strides
that follow from each other; type by the size that nb[0] repeats; op behind them; name as the longest text; src as
pointers to tensors; view_src and data by `data = view_src->data + view_offs`. A small graph leaves chance, so it is
refused; `layout.check` then has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from flowprof.profiler.ggml.layout import NAME_SIZE, GraphLayout, Layouts, LayoutUnknown, ParamsLayout, TensorLayout
from flowprof.profiler.ggml.layout_check import MAX_NODES, named, plausible, sample, stride_matches
from flowprof.profiler.ggml.names import OpNames
from flowprof.profiler.memory import Memory, Unreadable

MIN_NODES = 12
_HEADER = 128
_WINDOWS = (512, 448, 416, 384, 352, 320, 288, 256, 224)  # bytes read of each tensor; fewer near the end of a mapping
_MAX_SOURCES = 10
_COMPUTE_FLAG = 0x10
U64 = npt.NDArray[np.uint64]
_WORDS_WITH_COUNTERS = (9, 13)  # from src to view_src with 6 or 10 sources and three words of performance counters
_VIEWS_AT_ZERO = ("RESHAPE", "PERMUTE", "TRANSPOSE")  # their data is their source's


def infer_layouts(memory: Memory, cgraph_address: int, names: OpNames) -> Layouts:
    """Layouts from the live graph alone. Raises LayoutUnknown with the first thing that could not be found."""
    faults: list[str] = []
    for graph, nodes in _graph_candidates(memory, cgraph_address):
        try:
            tensor, modern = _Tensors(memory, nodes, names).layout()
        except (LayoutUnknown, Unreadable) as error:
            faults.append(error.message)
            continue
        params = ParamsLayout(0, 4) if modern else ParamsLayout(4, 8)
        return Layouts(
            tensor, replace(graph, uid=_uid(memory, cgraph_address, graph)), params, "inferred from the live graph"
        )
    raise LayoutUnknown(faults[0] if faults else "no array of pointers to tensors in the graph")


def _graph_candidates(memory: Memory, address: int) -> Iterator[tuple[GraphLayout, U64]]:
    """Every (count, array) in the header that could be the nodes, the longest array first.

    Of several counts for one array the largest is meant: the number of leafs would show only the array's beginning.
    Equal ones (a graph filled to its capacity, which stands first): the second where there is room for three.
    """
    header = memory.read_words(address, _HEADER // 8)
    counts = header.view("<i4")[:4]
    found: list[tuple[int, GraphLayout, U64]] = []
    for place in range(8, _HEADER, 8):
        pointer = int(header[place // 8])
        for count_at, count in enumerate(counts.tolist()):
            if not MIN_NODES <= count <= MAX_NODES or not _counts_before(counts[:count_at]):
                continue
            for inline in (False, True):
                if inline and place > 40:
                    continue
                try:
                    nodes = memory.read_words(address + place if inline else pointer, count)
                except Unreadable:
                    continue
                if plausible(nodes).all() and len(np.unique(nodes)) == count:
                    found.append((count, GraphLayout(count_at * 4, place, inline=inline), nodes))
    found.sort(key=lambda item: (-item[0], item[1].n_nodes != (4 if item[1].nodes >= 16 else 0)))
    places = set()
    for _, graph, nodes in found:
        if graph.nodes not in places:
            places.add(graph.nodes)
            yield graph, nodes


def _counts_before(others: npt.NDArray[np.int32]) -> bool:
    """The numbers in front of the count are counts or capacities too."""
    return bool(((others >= 0) & (others <= 1 << 20)).all())


def _uid(memory: Memory, address: int, graph: GraphLayout) -> int | None:
    """The word behind the hash set {size, used*, keys*} and the order of evaluation.

    Whether it is a uid is decided in `layout`.
    """
    if graph.inline:
        return None
    words = memory.read_words(address, _HEADER // 8 + 8)
    for at in range(graph.nodes // 8 + 1, _HEADER // 8):
        size, used, keys = (int(word) for word in words[at : at + 3])
        order = int(words[at + 3]) & 0xFFFFFFFF
        if MIN_NODES <= size < 1 << 24 and order < 4 and plausible(words[at + 1 : at + 3]).all() and used != keys:
            return (at + 4) * 8
    return None


class _Tensors:
    """A sample of the nodes as raw words, and the search for one field after the other."""

    def __init__(self, memory: Memory, nodes: U64, names: OpNames) -> None:
        self.memory, self.names, self.nodes = memory, names, nodes
        self.raw = self._window(nodes[sample(len(nodes))])
        self.words: U64 = self.raw.view("<u8")
        self.ints: npt.NDArray[np.uint32] = self.raw.view("<u4")

    def _window(self, addresses: U64) -> npt.NDArray[np.uint8]:
        between = np.diff(np.unique(self.nodes))
        room = int(np.min(between, initial=_WINDOWS[0]))  # no tensor reaches into the next
        for size in (room // 8 * 8, *_WINDOWS):
            if size > room:
                continue
            raw, readable = self.memory.read_rows(addresses, size)
            if readable.all():
                return raw
        raise LayoutUnknown("the graph's pointers lead to no tensors")

    def layout(self) -> tuple[TensorLayout, bool]:
        """The layout, and whether the build is of the time after per-tensor performance counters (June 2024)."""
        ne, dense = self._shape()
        name = self._name(ne + 64)
        kind = self._type(ne, dense)
        for op in self._ops(ne + 64, name):
            probe = TensorLayout(kind, ne, ne + 32, op, src=op, n_src=1, data=op, name=name, size=name + NAME_SIZE)
            columns = self._tensor_columns(probe)
            if columns:
                break
        else:
            raise LayoutUnknown("no field of the nodes holds an operator with pointers to tensors behind it")
        src = columns[0]
        view_src, data = self._data(probe, columns)
        n_src = 0
        while n_src < _MAX_SOURCES and src + 8 * n_src in columns and src + 8 * n_src != view_src:
            n_src += 1
        room = src - (op + 4)
        params = op + 4 if room >= 36 else None
        flags = self._flags(op, src)
        modern = view_src is not None and (view_src - src) // 8 not in _WORDS_WITH_COUNTERS
        layout = replace(probe, src=src, n_src=n_src, data=data, op_params=params, flags=flags, view_src=view_src)
        return replace(layout, size=name + NAME_SIZE + 16, source="inferred"), modern

    def _shape(self) -> tuple[int, npt.NDArray[np.bool_]]:
        """ne[4], nb[4]: most nodes are dense, so each stride is the one before times the dimension."""
        best, best_dense = 0, np.zeros(len(self.raw), dtype=np.bool_)
        for at in range(self.words.shape[1] - 8):
            ne, nb = self.words[:, at : at + 4].astype(np.int64), self.words[:, at + 4 : at + 8]
            fits = self._dense(ne, nb)
            if fits.sum() > best_dense.sum():
                best, best_dense = at * 8, fits
        if best_dense.mean() < 0.5:
            raise LayoutUnknown("no field of the nodes holds shapes and strides")
        return best, best_dense

    def _dense(self, ne: npt.NDArray[np.int64], nb: U64) -> npt.NDArray[np.bool_]:
        """Rows whose strides are those of a dense tensor of some type."""
        fits = stride_matches(ne, nb) & (ne > 0).all(axis=1) & (ne < 1 << 40).all(axis=1)
        some = np.zeros(len(ne), dtype=np.bool_)
        for trait in self.names.types:
            if trait.block_size:
                row = (ne[:, 0] // trait.block_size * trait.type_size).astype(np.uint64)
                some |= (nb[:, 0] == trait.type_size) & (nb[:, 1] == row)
        return fits & some

    def _type(self, ne: int, dense: npt.NDArray[np.bool_]) -> int:
        """The number whose type has the size that nb[0] says; in the nodes and in the sources, where types are many."""
        rows = self.raw[dense]
        others = np.unique(self.words[:, (ne + 64) // 8 :])
        others = others[plausible(others) & ~np.isin(others, self.nodes)]
        more, readable = self.memory.read_rows(others, ne + 64)
        if readable.any():
            leaf = more[readable].view("<u8")
            shape = leaf[:, ne // 8 : ne // 8 + 4].astype(np.int64)
            weights = self._dense(shape, leaf[:, ne // 8 + 4 : ne // 8 + 8])
            rows = np.concatenate([rows[:, : ne + 64], more[readable][weights]])
        sizes = np.array([trait.type_size for trait in self.names.types], dtype=np.uint64)
        unit = np.ascontiguousarray(rows[:, ne + 32 : ne + 40]).view("<u8")[:, 0]
        best, best_share = None, 0.9
        for offset in range(0, ne, 4):
            kind = np.ascontiguousarray(rows[:, offset : offset + 4]).view("<u4")[:, 0]
            right = (kind < len(sizes)) & (sizes[np.minimum(kind, len(sizes) - 1)] == unit)
            if right.mean() > best_share:
                best, best_share = offset, float(right.mean())
        if best is None:
            raise LayoutUnknown("no field of the nodes holds a type that agrees with the strides")
        return best

    def _name(self, after: int) -> int:
        """The longest text that every node has at the same place."""
        best, best_length = 0, 0
        for offset in range(after, self.raw.shape[1] - 32, 8):
            text = self.raw[:, offset : offset + NAME_SIZE]
            if (text < 128).all() and named(text).all():
                length = int((np.cumsum(text == 0, axis=1) == 0).sum())
                if length > best_length:
                    best, best_length = offset, length
        if best_length < 2 * len(self.raw):
            raise LayoutUnknown("no field of the nodes holds names")
        return best

    def _ops(self, after: int, before: int) -> Iterator[int]:
        """Places that could hold the operator: several different ones, hardly ever NONE."""
        for offset in range(after, before, 4):
            op = self.ints[:, offset // 4]
            if (op < len(self.names.ops)).all() and (op != 0).mean() >= 0.9 and len(np.unique(op)) >= 3:
                yield offset

    def _tensor_columns(self, probe: TensorLayout) -> list[int]:
        """The words behind op that are null or tensors in every node, from the first that most nodes fill."""
        columns = range(-(-(probe.op + 4) // 8) * 8, probe.name, 8)
        values = np.unique(self.words[:, columns.start // 8 : columns.stop // 8])
        values = values[plausible(values)]
        tensors = np.concatenate([values[self._are_tensors(values, probe)], self.nodes, np.zeros(1, dtype=np.uint64)])
        found: list[int] = []
        for column in columns:
            word = self.words[:, column // 8]
            if np.isin(word, tensors).all() and (found or (word != 0).mean() > 0.8):
                found.append(column)
        return found

    def _are_tensors(self, addresses: U64, probe: TensorLayout) -> npt.NDArray[np.bool_]:
        raw, readable = self.memory.read_rows(addresses, probe.extent)
        rows = raw.view(probe.dtype())[:, 0]
        fine = readable & named(rows["name"]) & (rows["name"][:, 0] != 0)
        fine &= (rows["op"] < len(self.names.ops)) & (rows["type"] < len(self.names.types))
        like: npt.NDArray[np.bool_] = (
            fine & (rows["ne"] >= 0).all(axis=1) & (rows["ne"] < 1 << 40).all(axis=1) & (rows["nb"][:, 0] > 0)
        )
        return like

    def _data(self, probe: TensorLayout, columns: list[int]) -> tuple[int | None, int]:
        """view_src and data: a view's data is its parent's plus its offset. Without view_src: views at offset 0."""
        for view in columns[1:]:
            word = self.words[:, view // 8]
            if (word != 0).any() and view // 8 + 2 < self.words.shape[1]:
                for data in range(view + 16, probe.name, 8):
                    if self._views_agree(word, data, self.words[:, view // 8 + 1]):
                        return view, data
        zero = [number for number, op in enumerate(self.names.ops) if op in _VIEWS_AT_ZERO]
        views = np.isin(self.ints[:, probe.op // 4], zero)
        parent = np.where(views, self.words[:, columns[0] // 8], 0).astype(np.uint64)
        for data in range(columns[0] + 8, probe.name, 8):
            if views.any() and self._views_agree(parent, data, np.zeros_like(parent)):
                return None, data
        before_name = probe.name - 8
        if plausible(self.words[:, before_name // 8], align=1).mean() > 0.9 and before_name not in columns:
            return None, before_name
        raise LayoutUnknown("no field of the nodes holds the address of their data")

    def _views_agree(self, parent: U64, data: int, offset: U64) -> bool:
        rows = np.flatnonzero(parent)
        raw, readable = self.memory.read_rows(parent[rows], data + 8)
        base = np.ascontiguousarray(raw[:, data:]).view("<u8")[:, 0]
        mine = self.words[rows, data // 8]
        return bool(readable.all() and plausible(base, align=1).all() and (mine == base + offset[rows]).all())

    def _flags(self, op: int, src: int) -> int | None:
        """Only builds whose loop heeds the flags are of interest: there the mark "compute" is on almost every node."""
        for offset in range(src - 4, op + 4 + 31, -4):
            value = self.ints[:, offset // 4]
            if (value < 256).all() and ((value & _COMPUTE_FLAG) != 0).mean() > 0.5:
                return offset
        return None
