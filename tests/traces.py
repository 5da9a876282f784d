"""Traces of other profilers, made by hand with a known truth: Kineto's JSON, nsys' SQLite, Perfetto's protobuf."""

from __future__ import annotations

import gzip
import json
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flowprof.profiler import importers
from flowprof.profiler.importers.writing import write
from flowprof.profiler.store import Recording

Event = dict[str, Any]
# Traces that other groups recorded, with their own analyses; tests that use them skip where the folder is absent.
SHARED = Path(__file__).resolve().parents[2] / "shared" / "traces"


def imported(trace: Path, recording: Path | None = None) -> Recording:
    """The trace as a recording that is open for reading."""
    path = str(recording or trace.with_suffix(".duckdb"))
    write(importers.read(str(trace)), path, str(trace), True, None, "test", "test")
    return Recording.open(path)


# ---------------------------------------------------------------------- Kineto


def slice_(cat: str, name: str, ts: float, dur: float, pid: Any = 10, tid: Any = 10, **args: Any) -> Event:
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}


def work(cat: str, name: str, ts: float, dur: float, correlation: int, stream: int = 7, **args: Any) -> Event:
    """A slice on device 0."""
    args = {"device": 0, "stream": stream, "correlation": correlation} | args
    return slice_(cat, name, ts, dur, 0, stream, **args)


def step() -> list[Event]:
    """Two products of 64x32 by 32x16 in f32, launched with 10 µs between them; 20 µs a kernel; then a copy of 5 µs.

    Operators: aten::linear around aten::addmm (External id 2), which launches; the copy has a device-wide wait.
    """
    dims = {"Input Dims": [[16], [64, 32], [32, 16], [], []], "Concrete Inputs": ["", "", "", "1", "1"],
            "Input type": ["float", "float", "float", "Scalar", "Scalar"]}  # fmt: skip
    events = []
    for number in range(2):
        at = 1000.0 + 30 * number
        events += [
            slice_("cpu_op", "aten::linear", at, 9, **{"External id": 10 * number + 1}),
            slice_("cpu_op", "aten::addmm", at + 1, 7, **{"External id": 10 * number + 2}, **dims),
            slice_("cuda_runtime", "cudaLaunchKernel", at + 2, 3, correlation=100 + number,
                   **{"External id": 10 * number + 2}),
            work("kernel", "sgemm<float>", at + 6, 20, 100 + number, grid=[1, 2, 1], block=[128, 1, 1],
                 **{"External id": 10 * number + 2}),
        ]  # fmt: skip
    events += [
        slice_("cuda_runtime", "cudaMemcpyAsync", 1050, 2, correlation=200),
        work("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 1060, 5, 200, bytes=4096),
    ]
    return events


def kineto(path: Path, events: Iterable[Event] | None = None, **facts: Any) -> Path:
    """An object with `facts` beside the events; in gzip when the name ends in .gz."""
    facts = {"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}]} | facts
    return text(path, json.dumps(facts | {"traceEvents": list(step() if events is None else events)}))


def text(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


# ---------------------------------------------------------------------- Nsight Systems


def nsys(path: Path, tables: dict[str, tuple[str, Sequence[Sequence[Any]]]]) -> Path:
    """Tables by name: columns as in CREATE TABLE, and rows."""
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as db:
        for name, (columns, rows) in tables.items():
            db.execute(f"CREATE TABLE {name} ({columns})")
            marks = ", ".join("?" * len(columns.split(",")))
            db.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
    db.close()
    return path


def nsys_tables() -> dict[str, tuple[str, Sequence[Sequence[Any]]]]:
    """A kernel of 400 ns in stream 7 of process 20, its launch, a copy from pageable memory, an operator around."""
    thread, process = (20 << 24) + 21, 20 << 24
    return {
        "StringIds": ("id INTEGER, value TEXT", [(1, "gemm"), (2, "gemm<float>"), (3, "cudaLaunchKernel_v7000"),
                                                 (4, "cuMemcpyHtoDAsync_v2")]),
        "CUPTI_ACTIVITY_KIND_KERNEL": (
            'start INTEGER, "end" INTEGER, deviceId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid'
            " INTEGER, shortName INTEGER, demangledName INTEGER, gridX INTEGER, gridY INTEGER, gridZ INTEGER",
            [(1000, 1400, 0, 7, 5, process, 1, 2, 8, 1, 1)]),
        "CUPTI_ACTIVITY_KIND_MEMCPY": (
            'start INTEGER, "end" INTEGER, deviceId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid'
            " INTEGER, bytes INTEGER, copyKind INTEGER, srcKind INTEGER, dstKind INTEGER",
            [(1500, 1600, 0, 7, 6, process, 512, 1, 0, 2)]),
        "CUPTI_ACTIVITY_KIND_RUNTIME": (
            'start INTEGER, "end" INTEGER, globalTid INTEGER, correlationId INTEGER, nameId INTEGER',
            [(800, 900, thread, 5, 3), (910, 920, thread, 6, 4)]),
        "NVTX_EVENTS": (
            'start INTEGER, "end" INTEGER, eventType INTEGER, text TEXT, globalTid INTEGER, textId INTEGER',
            [(790, 930, 59, "aten::mm, op_id = 3, sizes = [[64, 32], [32, 16]]", thread, None),
             (700, 950, 59, "forward", thread, None), (705, None, 34, "a mark", thread, None)]),
        "TARGET_INFO_GPU": ("id INTEGER, name TEXT, totalMemory INTEGER", [(0, "NVIDIA H100 80GB HBM3", 85 << 30)]),
    }  # fmt: skip


# ---------------------------------------------------------------------- Perfetto


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def message(*fields: tuple[int, Any]) -> bytes:
    """Fields by number: ints as varints, floats as fixed64, texts and bytes with their length."""
    found = b""
    for number, value in fields:
        if isinstance(value, int):
            found += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            found += varint(number << 3 | 1) + struct.pack("<d", value)
        else:
            data = value.encode() if isinstance(value, str) else value
            found += varint(number << 3 | 2) + varint(len(data)) + data
    return found


def packets(*bodies: bytes) -> bytes:
    return b"".join(message((1, body)) for body in bodies)


def annotation(name: str, value: Any) -> bytes:
    """A DebugAnnotation: an int, a text, or a list of such."""
    if isinstance(value, list):
        return message((10, name), *((12, annotation("", one)) for one in value))
    return message((10, name), (4, value) if isinstance(value, int) else (6, value))
