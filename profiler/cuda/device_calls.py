"""What calls of CUDA and NCCL were about: events → rows of device_call. numpy, in bulk.

The kernel side tells the words of a call when it begins and its result when it returns (cuda.bpf.c), by the call's
number; a long wait may begin in one batch of events and return in a later one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flowprof.probes.device_functions import FUNCTIONS, NCCL_ITEM_BYTES, PER_THREAD_STREAM, VARIANTS, Function, api_kind
from flowprof.profiler.cuda.function_names import FunctionNames
from flowprof.profiler.cuda.host_memory import HostMemory
from flowprof.profiler.cuda.kernel_names import KernelNames
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.planning.planned_site import PlannedSite
from numpy.typing import NDArray

Columns = dict[str, Any]
Ints = NDArray[np.int64]
MAX_WAITING = 65_536  # calls that have begun; more than threads can be in
MISSING = -(1 << 63)
NUMBERS = ("stream", "shared_bytes", "bytes", "address", "communicator", "graph")
TEXTS = ("name", "grid", "block", "direction", "host_memory")
DIRECTIONS = np.array(["HtoH", "HtoD", "DtoH", "DtoD", None], object)  # by cudaMemcpyKind; the last: it is not said
_KIND_BIT = 60  # of a source with its kind above it
MEMORIES = np.array([None, "pageable", "pinned"], object)
_ADDRESS = (1 << 48) - 1
_ALWAYS = ("capture_begin", "capture_end", "graph_instantiate")  # what launches are about later, in windows or not


class DeviceCalls:
    """The calls of one process."""

    def __init__(self, kernels: KernelNames, memory: HostMemory) -> None:
        self._kernels = kernels
        self._memory = memory
        self._functions: dict[int, tuple[str, Function]] = {}  # by number of the entry site
        self._waiting = np.empty(0, ring.EVENT)
        self._driver = FunctionNames()
        self._names: dict[int, bytes] = {}  # by number of a call that looks one up, and has not returned

    @property
    def kept_always(self) -> list[int]:
        """Numbers of the entry sites whose calls are recorded outside of windows, too."""
        return [number for number, (_, function) in self._functions.items() if function.what in _ALWAYS]

    def know(self, sites: Iterable[PlannedSite]) -> dict[int, tuple[str, str]]:
        """Sites that will be attached. Returns name and kind in api_call of those that are of CUDA's or NCCL's."""
        for site in sites:
            if site.probe.kind == "entry" and site.engine in ("cuda", "nccl") and site.symbol in FUNCTIONS:
                self._functions[site.site_id] = site.symbol, FUNCTIONS[site.symbol]
        if self._functions:
            self._kernels.look_at_files()
        return {number: (name, api_kind(name)) for number, (name, _) in self._functions.items()}

    def decode(self, events: NDArray[np.void]) -> Columns:
        """Columns of device_call, for the calls that returned. events: of calls.KINDS, any order."""
        begun = np.concatenate((self._waiting, events[events["kind"] == ring.CALL_ABOUT]))
        begins = np.isin(events["kind"], (ring.CALL_ABOUT, ring.CALL_NAME))
        ended = events[np.isin(events["site"], list(self._functions)) & ~begins]
        number = begun["tid"].astype(np.int64) << 32 | begun["ith"].astype(np.int64)
        order = np.argsort(number, kind="stable")
        begun, number = begun[order], number[order]
        at = np.searchsorted(number, ended["b"].astype(np.int64))
        found = at < len(number)
        found[found] = number[at[found]] == ended["b"].astype(np.int64)[found]
        rest = np.ones(len(begun), bool)
        rest[at[found]] = False
        self._waiting = begun[rest][-MAX_WAITING:]
        ended, about = ended[found], begun[at[found]]
        returned = ended["kind"] == ring.CALL_RETURN
        self._look_up(events[events["kind"] == ring.CALL_NAME], ended[returned], about[returned])
        return self._columns(ended[returned], about[returned])

    def _look_up(self, parts: NDArray[np.void], ended: NDArray[np.void], about: NDArray[np.void]) -> None:
        """Functions of the driver that were looked up. parts: of names, those of one call in order."""
        for part in parts:
            number = int(part["tid"]) << 32 | int(part["ith"])
            if number in self._names or len(self._names) < MAX_WAITING:
                self._names[number] = self._names.get(number, b"") + b"".join(part[word].tobytes() for word in "abcd")
        what = {number: function for number, (_, function) in self._functions.items() if function.what == "function"}
        rows = np.flatnonzero(np.isin(ended["site"], list(what)))
        for row in rows[np.argsort(ended["at_ns"][rows], kind="stable")].tolist():
            name = self._names.pop(int(ended["b"][row]), b"").partition(b"\0")[0]
            key, at_ns = int(ended["d"][row]), int(ended["at_ns"][row])
            if key >> 48:
                continue  # it failed
            if "kernel" in what[int(ended["site"][row])].words:
                self._driver.same(key & _ADDRESS, at_ns, int(about["b"][row]))
            else:
                self._driver.learn(key & _ADDRESS, at_ns, name)

    def _columns(self, ended: NDArray[np.void], about: NDArray[np.void]) -> Columns:
        rows = len(ended)
        numbers = {name: np.full(rows, MISSING) for name in (*NUMBERS, "source")}
        texts = {name: np.full(rows, None, object) for name in TEXTS}
        what = np.full(rows, "", object)
        result = (ended["d"] >> np.uint64(48)).astype(np.int64)
        sites = np.unique(ended["site"]).tolist()
        for site in sites:
            name, function = self._functions[site]
            mine = np.flatnonzero(ended["site"] == site)
            what[mine] = function.what
            words = {word: about[field][mine].view(np.int64) for word, field in
                     zip(function.words, "abcd", strict=False) if word}  # fmt: skip
            self._fill(function, name, words, ended["d"][mine], result[mine], mine, numbers, texts)
            if function.what == "launch" and api_kind(name) == "driver":
                self._name(words["function"], ended["a"][mine].astype(np.int64), mine, texts["name"])
            if function.pinned:
                self._remember(function, ended[mine], result[mine], mine, numbers)
        self._host_memory(ended, numbers, texts)
        del numbers["source"]
        return {
            "call_id": ended["b"].astype(np.int64), "what": what, "result": result.astype(np.int32),
            **{name: np.ma.masked_equal(column, MISSING) for name, column in numbers.items()}, **texts,
        }  # fmt: skip

    def _fill(
        self, function: Function, name: str, words: dict[str, Ints], key: NDArray[np.uint64], result: Ints, mine: Ints,
        numbers: dict[str, Ints], texts: dict[str, NDArray[np.object_]],
    ) -> None:  # fmt: skip
        """Put what the words of one function's calls say into the rows `mine`."""
        for word in ("stream", "address", "communicator", "graph"):
            if word in words:
                numbers[word][mine] = words[word]
        if "bytes" in words:  # a size beyond half of the address space is none
            numbers["bytes"][mine] = np.where(words["bytes"] >= 0, words["bytes"], MISSING)
        if "event" in words:
            numbers["address"][mine] = words["event"]
        if function.default_stream:
            numbers["stream"][mine] = 0
        if name.endswith(VARIANTS[1:]):
            numbers["stream"][mine[numbers["stream"][mine] == 0]] = PER_THREAD_STREAM
        if "count" in words:
            item: Any = function.item
            if "type" in words:
                sizes = np.array((*NCCL_ITEM_BYTES, MISSING), np.int64)
                item = sizes[np.clip(words["type"], 0, len(sizes) - 1)]
            numbers["bytes"][mine] = _product(words["count"], item)
        if function.what == "launch":
            self._launch(words, mine, numbers, texts)
        elif function.what == "copy":
            self._copy(function, words, mine, numbers, texts)
        elif function.pinned:
            texts["host_memory"][mine] = "pinned"
        if "out" in words:
            address = (key & np.uint64(_ADDRESS)).astype(np.int64)
            numbers["address"][mine] = np.where((result == 0) & (address != 0), address, MISSING)

    def _launch(self, words: dict[str, Ints], mine: Ints, numbers: dict[str, Ints],
                texts: dict[str, NDArray[np.object_]]) -> None:  # fmt: skip
        addresses, which = np.unique(words["function"], return_inverse=True)
        names = self._kernels.look(address & ((1 << 64) - 1) for address in addresses.tolist())
        texts["name"][mine] = _objects(list(names.values()))[which]
        numbers["address"][mine] = words["function"]
        grid, block = words["grid"], words["block"]
        texts["grid"][mine] = _sizes(grid, 32, 16)
        texts["block"][mine] = _sizes(block & 0xFFFFFFFF, 12, 12)
        numbers["shared_bytes"][mine] = block >> 32 & 0xFFFFFFFF

    def _name(self, handles: Ints, at_ns: Ints, mine: Ints, names: NDArray[np.object_]) -> None:
        """Name the driver's launches: by the function's name, or else by its handle."""
        for handle in np.unique(handles).tolist():
            own = handles == handle
            found = self._driver.at(handle, at_ns[own])
            rest = f"function {handle & (1 << 64) - 1:#x}"
            names[mine[own]] = [
                before or name or rest for before, name in zip(names[mine[own]], found, strict=True)
            ]  # fmt: skip

    def _copy(self, function: Function, words: dict[str, Ints], mine: Ints, numbers: dict[str, Ints],
              texts: dict[str, NDArray[np.object_]]) -> None:  # fmt: skip
        source, kind = words.get("source"), words.get("kind")
        if source is None:
            source, kind = words["source_kind"] & (1 << _KIND_BIT) - 1, words["source_kind"] >> _KIND_BIT & 15
        if kind is None:
            texts["direction"][mine] = function.direction or None
        else:
            kind = kind & 0xFFFFFFFF
            texts["direction"][mine] = DIRECTIONS[np.where(kind < len(DIRECTIONS), kind, len(DIRECTIONS) - 1)]
        numbers["source"][mine] = source

    def _host_memory(self, ended: NDArray[np.void], numbers: dict[str, Ints],
                     texts: dict[str, NDArray[np.object_]]) -> None:  # fmt: skip
        """What the host's side of each copy is."""
        copies = np.flatnonzero((texts["direction"] == "HtoD") | (texts["direction"] == "DtoH"))
        to_device = texts["direction"][copies] == "HtoD"
        host = np.where(to_device, numbers["source"][copies], numbers["address"][copies])
        kinds = self._memory.kinds(host, ended["a"][copies].astype(np.int64))
        texts["host_memory"][copies] = MEMORIES[kinds]

    def _remember(self, function: Function, ended: NDArray[np.void], result: Ints, mine: Ints,
                  numbers: dict[str, Ints]) -> None:  # fmt: skip
        """Memory that is pinned when the call returned, or no longer when it began."""
        pins = function.what == "allocate"
        times = (ended["at_ns"] if pins else ended["a"]).astype(np.int64)
        sizes = numbers["bytes"][mine] if pins else np.zeros(len(mine), np.int64)
        for at_ns, failed, address, size in zip(
            times.tolist(), result.tolist(), numbers["address"][mine].tolist(), sizes.tolist(), strict=True
        ):
            if not failed and address > 0:
                self._memory.changed(at_ns, address, size)


def _product(count: Ints, item: Any) -> Ints:
    """count · item where it is a size; MISSING where either is not, or it is none that memory has."""
    limit = 1 << 56
    fine = (count >= 0) & (count < limit) & (item != MISSING)
    return np.where(fine, np.where(fine, count, 0) * np.where(fine, item, 0), MISSING)


def _sizes(words: Ints, x_bits: int, y_bits: int) -> NDArray[np.object_]:
    """JSON [x, y, z] of each row, packed as cuda.bpf.c does."""
    distinct, which = np.unique(words.view(np.uint64), return_inverse=True)
    return _objects([
        f"[{word & (1 << x_bits) - 1}, {word >> x_bits & (1 << y_bits) - 1}, {word >> x_bits + y_bits}]"
        for word in distinct.tolist()
    ])[which]  # fmt: skip


def _objects(values: list[Any]) -> NDArray[np.object_]:
    found = np.empty(len(values), object)
    found[:] = values
    return found
