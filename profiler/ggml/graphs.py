"""The distinct graphs of one process: resolve its struct layouts on the first live graph, describe each graph once."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from flowprof.profiler.binaries.module_elf import load_bias, open_elf
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.ggml.describe import GraphChanged, GraphDescription, LiveGraph, describe, read_again, read_graph
from flowprof.profiler.ggml.dwarf_layouts import dwarf_layouts
from flowprof.profiler.ggml.layout import Layouts, resolve_layout
from flowprof.profiler.ggml.layout_table import KNOWN
from flowprof.profiler.ggml.names import LiveModule, OpNames, read_names, read_version
from flowprof.profiler.memory import Memory
from flowprof.profiler.target import Module
from numpy.typing import NDArray

FINGERPRINT = 1 << 63  # set in keys of builds whose graphs have no uid (probes/bpf/ggml.bpf.c)
EMPTY_NODE = -2  # a view, say: older builds call the operator function for it all the same, which returns at once
EXPERT_OP, IDS = "MUL_MAT_ID", 2  # the operator of a mixture of experts, and which source names the experts
MAX_REMEMBERED = 512  # graphs kept in memory; older ones are read again when they come back
MAX_UNDESCRIBED = 8192  # graphs that are only counted; an older one counts as another when it comes back
MAX_CONTENTS = 65_536
RECENT = 16  # graphs that are kept as they were read, up to half a megabyte each: the same ones come back
MAX_RESOLVE_ATTEMPTS = 200


@dataclass(frozen=True, slots=True)
class KnownGraph:
    """What decoding needs of a graph: its number, and its nodes' addresses in order of address."""

    graph_id: int
    described: bool
    addresses: NDArray[np.uint64]  # sorted
    nodes: NDArray[np.int32]  # node_index of each address, or EMPTY_NODE
    tokens: int | None = None
    outputs: int | None = None


def live_modules(modules: Iterable[Module], debug_dirs: tuple[str, ...] = ()) -> list[LiveModule]:
    """The ELF files with the bias at which the process has mapped them. Files that are not ELF are left out."""
    found = []
    for module in modules:
        try:
            elf = open_elf(module, debug_dirs)
            bias = load_bias(elf, module)
            if bias is not None:
                found.append(LiveModule(elf, bias))
        except FlowprofError:
            continue
    return found


def read_ahead(modules: Iterable[Module], debug_dirs: tuple[str, ...] = ()) -> None:
    """Read the files' debug information while something else is waited for: what is found is remembered."""
    with contextlib.suppress(FlowprofError):
        dwarf_layouts(live_modules(modules, debug_dirs), KNOWN)


class GraphBook:
    """Keys (uid or fingerprint, as the probe reports them) → graphs, of one process."""

    def __init__(self, pid: int, modules: list[LiveModule], next_id: Callable[[], int]) -> None:
        self.pid = pid
        self.layouts: Layouts | None = None
        self.trouble = ""  # why graphs cannot be described, in words
        self.model_written = False
        self.watched = 0
        self.version: str | None = None  # as the engine says
        self._memory = Memory(pid)
        self._modules = modules
        self._names: OpNames | None = None
        self._next_id = next_id
        self._attempts = 0
        self._known: OrderedDict[int, KnownGraph] = OrderedDict()
        self._unknown: OrderedDict[int, KnownGraph] = OrderedDict()
        self._contents: dict[bytes, tuple[int, int | None, int | None]] = {}  # → graph_id, tokens, outputs
        self._recent: deque[tuple[LiveGraph, KnownGraph]] = deque(maxlen=RECENT)
        self._unwritten: dict[int, int] = {}  # graph_id → key of undescribed graphs

    def expected(self) -> Layouts | None:
        """Today's layout, not verified: with it the programs can tell graphs apart from the first one on.

        Should the live graph say otherwise, what was read through it is thrown away.
        """
        has_uid = any(module.elf.symbols().get("ggml_graph_next_uid") for module in self._modules)
        today = KNOWN[0]
        if not has_uid:
            today = replace(today, graph=replace(today.graph, uid=None))
        return today if self._modules else None

    def prepare(self) -> None:
        """Do ahead what needs no graph: names, version, debug information (which remembers what it found)."""
        try:
            self._names = read_names(self._memory, self._modules)
            self.version = read_version(self._memory, self._modules)
            dwarf_layouts(self._modules, KNOWN)
        except FlowprofError as error:
            self.trouble = error.message

    def get(self, key: int) -> KnownGraph:
        """The graph of `key`; an undescribed one gets a number of its own."""
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        if key not in self._unknown:
            graph = KnownGraph(self._next_id(), False, np.empty(0, np.uint64), np.empty(0, np.int32))
            self._unknown[key] = graph
            self._unwritten[graph.graph_id] = key
            while len(self._unknown) > MAX_UNDESCRIBED:
                self._unknown.popitem(last=False)
        return self._unknown[key]

    def is_described(self, key: int) -> bool:
        """Whether the graph's nodes are known."""
        return key in self._known

    def resolve(self, cgraph: int) -> bool:
        """Find the struct layouts on the live graph at `cgraph`. Returns whether they are known now; see `trouble`."""
        if self.layouts is not None:
            return True
        if self._attempts >= MAX_RESOLVE_ATTEMPTS:
            return False
        self._attempts += 1
        try:
            if self._names is None:
                self._names = read_names(self._memory, self._modules)
            self.layouts = resolve_layout(self._memory, cgraph, self._names, self._modules)
        except FlowprofError as error:
            self.trouble = error.message
        return self.layouts is not None

    def undescribed_key(self, graph_id: int) -> int | None:
        """The key of an undescribed graph the first time that it is asked for; None for all others."""
        return self._unwritten.pop(graph_id, None)

    def describe(self, key: int, cgraph: int) -> tuple[KnownGraph, GraphDescription | None] | None:
        """Read the graph at `cgraph` now; None when it is another one by now (it is tried again when it comes back).

        A graph equal in content to an earlier one is that one: its number, and no description again.
        """
        if self.layouts is None or self._names is None or key == 0:
            return None
        expected = None if key & FINGERPRINT else key
        try:
            again = read_again(self._memory, cgraph, self.layouts, expected, (live for live, _ in self._recent))
            if again is not None:
                return self._remember(key, next(graph for live, graph in self._recent if live is again)), None
            live = read_graph(self._memory, cgraph, self.layouts, self._names, expected)
        except GraphChanged:
            return None
        except FlowprofError as error:
            self.trouble = error.message
            return None
        content = live.content()
        earlier = self._contents.get(content)
        description = None
        if earlier is None:
            # The description goes to the recording and is forgotten here: a long recording sees thousands of graphs.
            description = describe(live, self._names)
            earlier = (self._next_id(), description.tokens, description.outputs)
            if len(self._contents) < MAX_CONTENTS:
                self._contents[content] = earlier
        graph = self._placed(live, *earlier)
        self._recent.append((live, graph))
        return self._remember(key, graph), description

    def _remember(self, key: int, graph: KnownGraph) -> KnownGraph:
        self._known[key] = graph
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return graph

    def _placed(self, live: LiveGraph, graph_id: int, tokens: int | None, outputs: int | None) -> KnownGraph:
        addresses = live.addresses[: live.n_nodes]
        order = np.argsort(addresses, kind="stable")
        empty = np.isin(live.rows["op"][: live.n_nodes], list(self._names.empty_ops) if self._names else [])
        nodes = np.where(empty, EMPTY_NODE, np.arange(live.n_nodes))[order].astype(np.int32)
        return KnownGraph(graph_id, True, addresses[order], nodes, tokens, outputs)

    def expert_fields(self, description: GraphDescription) -> tuple[int, ...] | None:
        """What the programs need to read the ids of the experts: the offsets in a tensor of the operator's number, its
        third source, data and strides; and the number of MUL_MAT_ID. None: in this build the ids are not the third
        source (until March 2024 they were the first).
        """
        nodes = [at for at in range(description.n_nodes) if description.op[at] == EXPERT_OP]
        ids = [description.sources[at][IDS] if len(description.sources[at]) == IDS + 1 else None for at in nodes]
        number = self._names.op_number(EXPERT_OP) if self._names else None
        if self.layouts is None or not number or any(at is None or description.type[at] != "i32" for at in ids):
            return None
        tensor = self.layouts.tensor
        return tensor.op, tensor.src + 8 * IDS, tensor.data, tensor.nb, number

    def watched_node(self, description: GraphDescription) -> int:
        """1 + the index of the first node whose shape follows the context's length; 0: none found."""
        for index in range(description.n_nodes):
            if description.block[index] == "attention" and description.name[index].startswith("kq"):
                return index + 1
        return 0


def graph_columns(graph_id: int, pid: int, key: int, d: GraphDescription | None) -> dict[str, object]:
    """The row of table `graph`; without a description only its existence."""
    uid = None if key & FINGERPRINT or not key else key
    if d is None:
        return {"graph_id": [graph_id], "pid": [pid], "uid": [uid], "phase": ["other"], "described": [False]}
    return {
        "graph_id": [graph_id], "pid": [pid], "uid": [uid], "nodes": [d.n_nodes], "operators": [d.operators],
        "tokens": [d.tokens], "outputs": [d.outputs], "phase": [d.phase], "described": [True],
    }  # fmt: skip


def node_columns(graph_id: int, d: GraphDescription) -> dict[str, object]:
    """The rows of table `graph_node`: nodes, then leaves."""
    count = len(d.op)
    return {
        "graph_id": np.full(count, graph_id, np.int32), "node_index": np.arange(count, dtype=np.int32),
        "leaf": d.leaf, "op": list(d.op), "name": list(d.name), "type": list(d.type), "layer": list(d.layer),
        "block": list(d.block), "ne": d.ne.tolist(), "size_bytes": d.size_bytes, "data_bytes": d.data_bytes,
        "sources": [list(s) for s in d.sources], "executes": d.executes,
    }  # fmt: skip
