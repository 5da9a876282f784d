"""Events of CUDA's and NCCL's calls, made by hand, as rows of device_call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flowprof.probes.catalogue import Probe
from flowprof.probes.cuda import CUDA
from flowprof.probes.device_functions import FUNCTIONS
from flowprof.probes.nccl import NCCL
from flowprof.profiler.cuda import host_memory
from flowprof.profiler.cuda.device_calls import DeviceCalls
from flowprof.profiler.cuda.host_memory import HostMemory
from flowprof.profiler.cuda.kernel_names import KernelNames
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.planning.planned_site import PlannedSite
from flowprof.profiler.target import Module

TID = 77


def site(number: int, symbol: str) -> PlannedSite:
    module = Module(1, "/lib/libcudart.so.12", "/lib/libcudart.so.12", 5, "0:0", False, ())
    probe = Probe("cuda.x", "entry", FUNCTIONS[symbol].program, 0)
    engine = "nccl" if symbol.startswith("nccl") else "cuda"
    return PlannedSite(number, 1, engine, "op", probe, module, None, symbol, 0, 0, "", "", "")


class Kernels(KernelNames):
    def __init__(self) -> None:
        super().__init__(1)

    def look_at_files(self) -> None:
        """There are none."""

    def look(self, addresses: object) -> dict[int, str | None]:
        return {address: {10: "gemm", 20: "norm"}.get(address) for address in addresses}


class Memory(HostMemory):
    """The process has ordinary memory from 1000 on, and some of the driver's."""

    def __init__(self) -> None:
        super().__init__(1)

    def _maps(self) -> list[tuple[int, int, int]]:
        return [(1000, 9000, host_memory.PAGEABLE), (9000, 9500, host_memory.PINNED)]


@pytest.fixture
def device() -> DeviceCalls:
    found = DeviceCalls(Kernels(), Memory())
    symbols = ["cudaLaunchKernel", "cudaMemcpyAsync", "cudaHostAlloc", "cudaFreeHost", "ncclAllReduce",
               "cuMemsetD32Async", "cudaLaunchKernel_ptsz", "cudaMalloc", "cudaMemcpy"]  # fmt: skip
    names = found.know(site(number + 1, symbol) for number, symbol in enumerate(symbols))
    assert [names[number] for number in (1, 5, 6)] == [
        ("cudaLaunchKernel", "runtime"), ("ncclAllReduce", "nccl"), ("cuMemsetD32Async", "driver")]  # fmt: skip
    return found


class Thread:
    """Events of one thread's calls, one after the other."""

    def __init__(self, tid: int = TID) -> None:
        self.tid, self.count, self.now = tid, 0, 1000
        self.events: list[tuple[object, ...]] = []

    def call(
        self, site: int, *words: int, result: int = 0, out: int = 0, returns: bool = True, about: bool = True
    ) -> int:
        number = self.tid << 32 | self.count
        start = self.now = self.now + 10
        a, b, c, d = (word & (1 << 64) - 1 for word in (*words, 0, 0, 0, 0)[:4])
        if about:
            self.events.append((0, start, 1, self.tid, ring.CALL_ABOUT, site, self.count, a, b, c, d))
        self.count += 1
        if returns:
            self.now += 5
            self.events.append((0, self.now, 1, self.tid, ring.CALL_RETURN, site, 0, start, number, 0,
                                min(result, 65535) << 48 | out))  # fmt: skip
        return number

    def taken(self) -> np.ndarray:
        found = np.array(self.events, ring.EVENT)
        self.events = []
        return found


def rows(columns: dict[str, object]) -> list[dict[str, object]]:
    lists = {name: np.ma.asarray(column).tolist() for name, column in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def test_a_launch(device: DeviceCalls) -> None:
    thread = Thread()
    grid, block = 7 | 5 << 32 | 3 << 48, 256 | 2 << 12 | 1 << 24 | 4096 << 32
    number = thread.call(1, 10, grid, block, 0xA000)
    thread.call(1, 30, 1 | 1 << 32 | 1 << 48, block, -1, result=700)
    thread.call(7, 20, grid, block, 0)
    first, second, third = rows(device.decode(thread.taken()))
    assert first == {
        "call_id": number, "what": "launch", "result": 0, "stream": 0xA000, "shared_bytes": 4096, "bytes": None,
        "address": 10, "communicator": None, "graph": None, "name": "gemm", "grid": "[7, 5, 3]", "block": "[256, 2, 1]",
        "direction": None, "host_memory": None,
    }  # fmt: skip
    assert (second["name"], second["result"], second["stream"], second["grid"]) == (None, 700, -1, "[1, 1, 1]")
    assert (third["name"], third["stream"]) == ("norm", 2), "the default stream of a thread"


def test_handles_of_the_driver_s_functions_by_time(device: DeviceCalls) -> None:
    """A handle that is given away anew; a name in parts; a call that failed; a function that nobody saw looked up."""
    device.know([site(20, "cuModuleGetFunction"), site(21, "cuLaunchKernel"), site(22, "cuKernelGetFunction")])
    thread = Thread()

    def looked_up(name: bytes, handle: int, result: int = 0) -> None:
        number = thread.count
        for at in range(0, len(name) + 1, 32):
            words = np.frombuffer((name[at : at + 32]).ljust(32, b"\0"), "<u8").tolist()
            thread.events.append((0, thread.now, 1, TID, ring.CALL_NAME, 20, number, *words))
        thread.call(20, 1, 2, out=handle, result=result)

    looked_up(b"first_" + b"k" * 40, 0x7000)
    thread.call(21, 0x7000)
    looked_up(b"second", 0x7000)
    thread.call(22, 0x8000, 0x7000, out=0x9000)
    looked_up(b"failed", 0x7000, result=500)
    for handle in (0x7000, 0x9000, 0x6000):
        thread.call(21, handle)
    found = [row["name"] for row in rows(device.decode(thread.taken())) if row["what"] == "launch"]
    assert found == ["first_" + "k" * 40, "second", "second", "function 0x6000"]
    thread.call(21, 0x7000)
    assert [row["name"] for row in rows(device.decode(thread.taken()))] == ["second"]


def test_a_call_that_takes_long_and_one_that_never_returns(device: DeviceCalls) -> None:
    thread, other = Thread(), Thread(78)
    thread.call(8, 4000, 1 << 20, returns=False)
    assert rows(device.decode(thread.taken())) == []
    other.call(8, 4000, 1 << 10, out=0x7000)
    number = thread.tid << 32
    late = np.array([(0, 5000, 1, TID, ring.CALL_RETURN, 8, 0, 1010, number, 0, 0x9000)], ring.EVENT)
    found = rows(device.decode(np.concatenate((late, other.taken()))))
    assert {row["call_id"]: (row["bytes"], row["address"]) for row in found} == {
        number: (1 << 20, 0x9000), 78 << 32: (1 << 10, 0x7000)}  # fmt: skip
    for _ in range(3):
        thread.call(8, returns=False)
        thread.call(8, about=False)  # what it was about found no room in the ring
        assert rows(device.decode(thread.taken())) == []


def test_host_memory_by_time_and_place(device: DeviceCalls) -> None:
    thread = Thread()
    to_device = 1 << 60
    thread.call(2, 0xD000, 2000 | to_device, 64, 0)  # before it is pinned
    thread.call(3, 1, 1000, out=2000)
    thread.call(2, 0xD000, 2500 | to_device, 64, 0)
    thread.call(2, 0xD000, 3000 | to_device, 64, 0)  # right behind it
    thread.call(2, 9100, 0xD000 | 2 << 60, 64, 0)  # to the driver's own
    thread.call(2, 77, 0xD000 | 2 << 60, 64, 0)  # nothing there
    thread.call(2, 0xD000, 0xE000 | 3 << 60, 64, 0)
    thread.call(2, 0xD000, 2500 | 4 << 60, 64, 0)  # the driver knows which way
    thread.call(4, 2000)
    thread.call(2, 0xD000, 2500 | to_device, 64, 0)
    thread.call(9, 2500, 0xD000, 64, 2)
    found = [(row["direction"], row["host_memory"]) for row in rows(device.decode(thread.taken()))
             if row["what"] == "copy"]  # fmt: skip
    assert sorted(found, key=str) == sorted([
        ("HtoD", "pageable"), ("HtoD", "pinned"), ("HtoD", "pageable"), ("DtoH", "pinned"), ("DtoH", None),
        ("DtoD", None), (None, None), ("HtoD", "pageable"), ("DtoH", "pageable"),
    ], key=str)  # fmt: skip
    thread.call(3, 1, 1000, out=2000, result=2)  # it failed
    thread.call(2, 0xD000, 2500 | to_device, 64, 0)
    assert rows(device.decode(thread.taken()))[-1]["host_memory"] == "pageable"


def test_sizes(device: DeviceCalls) -> None:
    thread = Thread()
    thread.call(5, 1000, 7, 0xC0, 0xA000)  # float32
    thread.call(5, 1000, 99, 0xC0, 0xA000)  # no such type
    thread.call(5, -1, 7, 0xC0, 0xA000)
    thread.call(6, 0xD000, 0, 100, 0xB000)
    thread.call(8, 1, -1, out=0)
    found = rows(device.decode(thread.taken()))
    assert [row["bytes"] for row in found] == [4000, None, None, 400, None]
    assert [row["communicator"] for row in found] == [0xC0, 0xC0, 0xC0, None, None]
    assert [row["stream"] for row in found] == [0xA000, 0xA000, 0xA000, 0xB000, None]


def test_real_maps(tmp_path: Path) -> None:
    """This process's own memory is ordinary; nothing is at 1."""
    import ctypes
    import os

    own = ctypes.create_string_buffer(1 << 20)
    kinds = HostMemory(os.getpid()).kinds(np.array([ctypes.addressof(own), 1, -5]), np.zeros(3, np.int64))
    assert kinds.tolist() == [host_memory.PAGEABLE, host_memory.UNKNOWN, host_memory.UNKNOWN]
    assert HostMemory(2**22 + 1).kinds(np.array([4096]), np.zeros(1, np.int64)).tolist() == [host_memory.UNKNOWN]


def test_mapped_weights_are_pageable(tmp_path: Path) -> None:
    """As llama.cpp maps a model: shared, from a file. Shared memory without one may have been pinned by anybody."""
    import ctypes
    import mmap
    import os

    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" * 4096)
    with model.open("rb") as file, mmap.mmap(-1, 4096) as shared:
        weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        readers = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        own = HostMemory(os.getpid())
        places = {line.split()[0].partition("-")[0]: line for line in Path("/proc/self/maps").read_text().splitlines()}
        at = [int(start, 16) for start, line in places.items() if "model.gguf" in line]
        address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
        kinds = own.kinds(np.array([*at, address]), np.zeros(len(at) + 1, np.int64)).tolist()
        weights.close()
        readers.close()
    assert kinds == [host_memory.PAGEABLE] * 2 + [host_memory.UNKNOWN]


def test_the_catalogue_is_whole() -> None:
    """Every function of the table is probed where it begins and where it returns, by a program that is there."""
    source = (Path(__file__).parents[2] / "probes" / "bpf" / "cuda.bpf.c").read_text()
    probes = [probe for engine in (CUDA, NCCL) for ladder in engine.ladders for rung in ladder.rungs
              for probe in rung.probes]  # fmt: skip
    entries = {symbol for probe in probes if probe.kind == "entry" for symbol in probe.symbols}
    returns = {symbol for probe in probes if probe.kind == "return" for symbol in probe.symbols}
    assert entries == returns == set(FUNCTIONS)
    for probe in probes:
        assert f"\nint {probe.program}(struct pt_regs *ctx)" in source
    assert all(len(function.words) <= 4 for function in FUNCTIONS.values())
