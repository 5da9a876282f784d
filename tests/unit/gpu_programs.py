"""Timelines of GPUs whose truth is known by construction, as Kineto traces: NanoFlow's table 2, two streams, copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowprof.profiler.analyzers import overlap
from flowprof.profiler.sections.overlap import Overlap, OverlapTable
from traces import Event, imported, kineto, slice_, work

A100 = {"deviceProperties": [{"id": 0, "name": "A100"}]}  # as NanoFlow's table 1 rounds it
LAYERS, BATCH, HIDDEN, INTER, DEVICES = 80, 2048, 8192, 28672, 8
DECODING, PROMPT, CONTEXT, ANSWER = 1365, 683, 1024, 1024


def found(tmp_path: Path, events: list[Event], **facts: Any) -> OverlapTable:
    with imported(kineto(tmp_path / "a.json", events, **(A100 | facts))) as recording:
        return overlap.table(recording)


def exposed(table: OverlapTable) -> dict[str, int]:
    return {one.resource: one.exposed_ns for one in table.devices[0].times}


class Program:
    """Launches work, an operator each, all from one thread well before it runs."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.number = 0
        self.at = 1e6

    def run(self, name: str, us: float, dims: list[list[int]] | None = None, *, at: float | None = None,
            stream: int = 7, kernel: str = "kernel", cat: str = "kernel", launched: float | None = None,
            api: str = "cudaLaunchKernel", call_us: float = 0.5, **args: Any) -> float:  # fmt: skip
        """A slice behind the last one, or at `at`; returns its end. launched: when its call began."""
        self.number += 1
        call = launched if launched is not None else self.number * 2.0
        start = self.at if at is None else at
        if name:
            shapes = {"Input Dims": dims, "Input type": ["c10::Half"] * len(dims)} if dims else {}
            self.events.append(
                slice_("cpu_op", name, call - 0.2, call_us + 0.4, **{"External id": self.number}, **shapes)
            )
            args["External id"] = self.number
        self.events.append(slice_("cuda_runtime", api, call, call_us, correlation=self.number))
        self.events.append(work(cat, kernel, start, us, self.number, stream, **args))
        self.at = max(self.at, start + us)
        return start + us

    def gemm(self, us: float, m: int, k: int, n: int, **more: Any) -> float:
        return self.run("aten::mm", us, [[m, k], [k, n]], kernel="ampere_gemm", **more)

    def attention(self, us: float, batch: int, queries: int, keys: int, **more: Any) -> float:
        q, kv = [batch, HIDDEN // 128 // DEVICES, queries, 128], [batch, 1, keys, 128]
        return self.run("aten::_scaled_dot_product_flash_attention", us, [q, kv, kv], kernel="flash_fwd", **more)

    def network(self, us: float, **more: Any) -> float:
        return self.run("", us, kernel="ncclDevKernel_AllReduce_Sum_f16", **more)

    def copy(self, us: float, direction: str = "HtoD (Pageable -> Device)", **more: Any) -> float:
        return self.run("", us, kernel=f"Memcpy {direction}", cat="gpu_memcpy", **({"api": "cudaMemcpyAsync"} | more))

    def wait(self, begin: float, end: float, name: str = "cudaStreamSynchronize") -> None:
        self.events.append(slice_("cuda_runtime", name, begin, end - begin))

    def edge(self, recorded: float, at: float, waiting: int, awaited: int, correlation: int) -> None:
        """A stream waits for an event of another one, and the trace says so."""
        self.events += [
            slice_("cuda_runtime", "cudaEventRecord", recorded, 0.1, correlation=correlation),
            slice_("cuda_runtime", "cudaStreamWaitEvent", at, 0.05, correlation=correlation + 1),
            work("cuda_sync", "Stream Wait Event", at, 0.05, correlation + 1, waiting,
                 wait_on_stream=awaited, wait_on_cuda_event_record_corr_id=correlation),
        ]  # fmt: skip


MEASURED_MS = {"KQV": 16.08, "O": 16.01, "UG": 69.92, "D": 34.96, "DecAttn": 35.60, "PfAttn": 4.56, "Net": 47.92}


def nanoflow(gemm_stream: int = 7, other_stream: int = 7, together: bool = False) -> list[Event]:
    """Table 2 of NanoFlow (arXiv 2408.12757), its measured times, one of its eight GPUs, layer by layer.

    together: memory's and the network's work begins with the layer's products on another stream.
    """
    us = {name: ms * 1e3 / LAYERS for name, ms in MEASURED_MS.items()}
    program = Program()
    for _ in range(LAYERS):
        begin = program.at
        products = (("KQV", HIDDEN, (HIDDEN + 2 * HIDDEN // 8) // DEVICES), ("O", HIDDEN // DEVICES, HIDDEN),
                    ("UG", HIDDEN, 2 * INTER // DEVICES), ("D", INTER // DEVICES, HIDDEN))  # fmt: skip

        def product(number: int, products: Any = products) -> None:
            name, k, n = products[number]
            program.gemm(us[name], BATCH, k, n, stream=gemm_stream)

        def attention(at: float | None = None) -> None:
            program.attention(us["DecAttn"], DECODING, 1, CONTEXT, stream=other_stream, at=at)

        if together:
            attention(begin)
            program.network(us["Net"], stream=other_stream, at=begin + us["DecAttn"])
            program.at = begin
        product(0)
        program.attention(us["PfAttn"], 1, PROMPT, 512, stream=gemm_stream)
        if not together:
            attention()
        product(1)
        if not together:
            program.network(us["Net"] / 2)
        product(2)
        product(3)
        if not together:
            program.network(us["Net"] / 2)
    return program.events


def free(table: OverlapTable) -> list[Overlap]:
    return [one for one in table.overlaps if one.kind == "free"]


def only(table: OverlapTable) -> Overlap:
    [one] = free(table)
    return one


def synchronised(
    api: str = "cudaStreamSynchronize",
    event: bool = False,
    first: str = "gemm",
    last: str = "cudaDeviceSynchronize",
    edges: Sequence[tuple[int, int, float]] = (),
) -> list[Event]:
    """400 µs of a product in stream 7, a wait for it, then 100 µs of a collective in stream 9, a wait; 20 times.

    edges: waiting stream, awaited stream, when its event was recorded (the product is launched at 0, waited for at 2).
    """
    program = Program()
    program.events.append(slice_("user_annotation", "train_step", -1, 1e9))
    for number in range(20):
        at = 1e6 + 1000 * number
        told = 10_000 + 1000 * number  # correlations of events
        for place, (waiting, awaited, recorded) in enumerate(edges):
            program.edge(at + recorded, at + 408 + place / 200, waiting, awaited, told + 2 * place)
        if first == "copy":
            program.copy(400, "HtoD (Pinned -> Device)", at=at + 5, launched=at)
        elif first == "to host":
            program.copy(400, "DtoH (Device -> Pinned)", at=at + 5, launched=at)
        else:
            program.gemm(400, 2048, 4096, 4096, at=at + 5, launched=at)
        program.wait(at + 2, at + 407, api)
        if event:
            program.wait(at + 408, at + 409, "cudaStreamWaitEvent")
        program.network(100, stream=9, at=at + 415, launched=at + 410)
        if last:
            program.wait(at + 412, at + 517, last)
    return program.events
