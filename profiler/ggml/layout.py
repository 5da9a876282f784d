"""Where the fields of ggml's structs lie in one build: found, then proved on live tensors, never guessed.

Order: DWARF when the binary describes the structs; the layouts of known versions; offsets inferred from what tensors
must look like. Whatever the source, `check` must find no fault with it on the live graph. When nothing fits,
LayoutUnknown says what was tried and what was wrong with it. Offsets are in bytes; only 64-bit little-endian
targets.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from flowprof.profiler.errors import NothingToProfileError
from flowprof.profiler.ggml.names import LiveModule, OpNames
from flowprof.profiler.memory import Memory, Unreadable

NAME_SIZE = 64
Source = Literal["dwarf", "version", "inferred"]


class LayoutUnknown(NothingToProfileError):  # noqa: N818 (it says what happened, and is not always an error)
    """No layout of ggml's structs fits the live tensors."""


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """`struct ggml_tensor`. None: the build has no such field."""

    type: int
    ne: int
    nb: int
    op: int
    src: int
    n_src: int
    data: int
    name: int
    size: int
    op_params: int | None = None
    flags: int | None = None
    view_src: int | None = None
    source: Source = "version"

    @property
    def extent(self) -> int:
        """Bytes that must be read of each tensor to have every field."""
        return max(self.name + NAME_SIZE, self.data + 8, self.src + 8 * self.n_src)

    @functools.cache  # noqa: B019 (a process has few layouts)
    def dtype(self) -> np.dtype[np.void]:
        """A numpy view of `extent` bytes with one field per member; absent members are absent."""
        fields: list[tuple[str, str | tuple[str, int], int]] = [
            ("type", "<u4", self.type),
            ("ne", ("<i8", 4), self.ne),
            ("nb", ("<u8", 4), self.nb),
            ("op", "<u4", self.op),
            ("src", ("<u8", self.n_src), self.src),
            ("data", "<u8", self.data),
            ("name", ("u1", NAME_SIZE), self.name),
        ]
        for member, kind in (("op_params", "<i4"), ("flags", "<u4"), ("view_src", "<u8")):
            offset = getattr(self, member)
            if offset is not None:
                fields.append((member, kind, offset))
        names, formats, offsets = zip(*fields, strict=True)
        return np.dtype(
            {"names": list(names), "formats": list(formats), "offsets": list(offsets), "itemsize": self.extent}
        )


@dataclass(frozen=True, slots=True)
class GraphLayout:
    """`struct ggml_cgraph`. `inline`: nodes and leafs are arrays within the struct, not pointers (until 2023).

    Without `leafs` the leaves are those that nodes name as sources.
    """

    n_nodes: int
    nodes: int
    n_leafs: int | None = None
    leafs: int | None = None
    uid: int | None = None
    inline: bool = False

    @property
    def extent(self) -> int:
        """Bytes of the header that are needed."""
        arrays = () if self.inline else (self.nodes, self.leafs, self.uid)
        ends: list[int] = [offset + 8 for offset in (self.n_nodes, self.n_leafs, *arrays) if offset is not None]
        return (max(ends) + 7) // 8 * 8


@dataclass(frozen=True, slots=True)
class ParamsLayout:
    """`struct ggml_compute_params`: a thread's index and the number of threads."""

    ith: int
    nth: int


@dataclass(frozen=True, slots=True)
class Layouts:
    """The layouts of one build, and in words how they were found."""

    tensor: TensorLayout
    graph: GraphLayout
    params: ParamsLayout
    version: str


def resolve_layout(
    memory: Memory,
    cgraph_address: int,
    names: OpNames,
    modules: Sequence[LiveModule] = (),
    table: Sequence[Layouts] | None = None,
) -> Layouts:
    """The layouts that fit the live graph at `cgraph_address`. `table` replaces the known versions (tests).

    Raises LayoutUnknown; MemoryGone, PermissionDeniedError from reading.
    """
    from flowprof.profiler.ggml.dwarf_layouts import STATED, dwarf_layouts
    from flowprof.profiler.ggml.layout_check import check
    from flowprof.profiler.ggml.layout_infer import infer_layouts
    from flowprof.profiler.ggml.layout_table import KNOWN

    tried: list[str] = []
    known = KNOWN if table is None else table

    def preferred(fits: Layouts, before: Sequence[Layouts]) -> Layouts:
        # The engine goes on meanwhile: one tried earlier may have met a graph that was being rebuilt.
        chosen = next((x for x in before if not check(memory, cgraph_address, x, names)), fits)
        return chosen if chosen.version == STATED else _with_uid(memory, cgraph_address, chosen, modules)

    candidates = (*dwarf_layouts(modules, known), *known)
    for number, candidate in enumerate(candidates):
        violations = check(memory, cgraph_address, candidate, names)
        if not violations:
            return preferred(candidate, candidates[:number])
        tried.append(f"{candidate.version}: {violations[0]}")
    try:
        inferred = infer_layouts(memory, cgraph_address, names)
        violations = check(memory, cgraph_address, inferred, names)
    except (LayoutUnknown, Unreadable) as error:
        violations = [error.message]
    if not violations:
        return preferred(inferred, candidates)
    tried.append(f"inferred from the live tensors: {violations[0]}")
    raise LayoutUnknown(
        "this build's ggml structs have a layout that flowprof does not understand; tried " + "; ".join(tried),
        hint="please report the engine's version; `flowprof list-probes` shows the binary and its build-id",
    )


def _with_uid(memory: Memory, cgraph_address: int, layouts: Layouts, modules: Sequence[LiveModule]) -> Layouts:
    """The same with `uid` only where the build has one (since April 2026).

    The function that hands out uids decides when symbols can tell; else the word itself: a uid is a small number, while
    in builds without one the word behind the struct is a pointer, a pair of ints, or zero.
    """
    if layouts.graph.uid is None:
        return layouts
    tables = [module.elf.symbols() for module in modules]
    has_uid = any(symbols.get("ggml_graph_next_uid") is not None for symbols in tables)
    if not has_uid:
        word = memory.read_words(cgraph_address + layouts.graph.uid, 1)
        has_uid = 0 < int(word[0]) < 1 << 32 and not memory.read_rows(word, 8)[1][0]
    return layouts if has_uid else replace(layouts, graph=replace(layouts.graph, uid=None))
