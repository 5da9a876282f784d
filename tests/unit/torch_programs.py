"""Recordings of torch programs that are made up: nested operators, kernels, threads, with times that vary a little."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.result import Diff
from flowprof.profiler.diff.side import open_pair
from flowprof.profiler.store import Recording

PID = 4242
US = 1_000
F32, BF16 = "float", "c10::BFloat16"


@dataclass(frozen=True)
class Op:
    """`ns` of its own, before, between and after the operators inside. dims: of every argument, all of one type."""

    name: str
    ns: float
    dims: Sequence[Sequence[int]] = ()
    type: str = F32
    inside: Sequence[Op] = ()
    kernel: tuple[str, float] | None = None  # name and ns of what it launches on the device
    waits: bool = False  # for all kernels, in cudaStreamSynchronize


def python(ns: float) -> Op:
    """Time outside of operators."""
    return Op("", ns)


@dataclass
class Program:
    """Runs operators one after the other on threads of one process, and kernels on one stream."""

    seed: int = 0
    spread: float = 0.03  # of every time
    now: dict[int, int] = field(default_factory=dict)  # by thread
    calls: list[dict[str, Any]] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    args: dict[tuple[str, str], int] = field(default_factory=dict)
    windows: list[tuple[str, int, int]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)
    drained: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def ns(self, ns: float) -> int:
        return max(1, round(ns * self.random.normal(1, self.spread)))

    def run(self, *ops: Op, tid: int = PID, kind: str = "operator", parent: int | None = None, depth: int = 0) -> None:
        for op in ops:
            self._run(op, tid, kind, parent, depth)

    def _run(self, op: Op, tid: int, kind: str, parent: int | None, depth: int) -> None:
        start = self.now.setdefault(tid, 1_000_000)
        own = self.ns(op.ns) if op.ns else 0
        if not op.name:
            self.now[tid] += own
            return
        number = len(self.calls)
        call: dict[str, Any] = {"call_id": number, "pid": PID, "tid": tid, "kind": kind, "name": op.name,
                                "start_ns": start, "end_ns": None, "parent_id": parent, "depth": depth,
                                "correlation": None, "args_id": self._args(op)}  # fmt: skip
        self.calls.append(call)
        self.now[tid] += own // 2
        self.run(*op.inside, tid=tid, parent=number, depth=depth + 1)
        if op.kernel is not None:
            self._launch(op.kernel, tid, number, depth + 1)
        if op.waits:
            self._api("cudaStreamSynchronize", tid, max(self.now[tid] + 1000, self.drained), number, depth + 1)
        self.now[tid] += own - own // 2
        call["end_ns"] = self.now[tid]

    def _api(self, name: str, tid: int, end: int, parent: int, depth: int, correlation: int | None = None) -> None:
        self.calls.append({"call_id": len(self.calls), "pid": PID, "tid": tid, "kind": "runtime", "name": name,
                           "start_ns": self.now[tid], "end_ns": end, "parent_id": parent, "depth": depth,
                           "correlation": correlation, "args_id": None})  # fmt: skip
        self.now[tid] = end

    def _launch(self, kernel: tuple[str, float], tid: int, parent: int, depth: int) -> None:
        name, ns = kernel
        number = len(self.slices) + 1
        start = max(self.now[tid] + 4 * US, self.drained + US)
        self.drained = start + self.ns(ns)
        self.slices.append({"slice_id": number, "pid": PID, "device": 0, "stream": 7, "kind": "kernel", "name": name,
                            "start_ns": start, "end_ns": self.drained, "correlation": number})  # fmt: skip
        self._api("cudaLaunchKernel", tid, self.now[tid] + 2 * US, parent, depth, number)

    def annotate(self, name: str, work: Callable[[], None], tid: int = PID) -> None:
        start = self.now.setdefault(tid, 1_000_000)
        work()
        self.calls.append({"call_id": len(self.calls), "pid": PID, "tid": tid, "kind": "annotation", "name": name,
                           "start_ns": start, "end_ns": self.now[tid], "parent_id": None, "depth": 0,
                           "correlation": None, "args_id": None})  # fmt: skip

    def _args(self, op: Op) -> int | None:
        if not op.dims:
            return None
        key = json.dumps([list(one) for one in op.dims]), json.dumps([op.type] * len(op.dims))
        return self.args.setdefault(key, len(self.args) + 1)

    def write(self, path: Path) -> Path:
        with Recording.create(str(path), overwrite=True) as recording:

            def put(table: str, rows: list[dict[str, Any]]) -> None:
                if rows:
                    recording.append(table, {name: [row[name] for row in rows] for name in rows[0]})

            put("api_call", self.calls)
            put("gpu_slice", self.slices)
            put("api_args", [{"args_id": number, "dims": dims, "types": types, "scalars": "[]"}
                             for (dims, types), number in self.args.items()])  # fmt: skip
            put("probe_window", [{"window_id": at, "level": level, "start_ns": start, "end_ns": end}
                                 for at, (level, start, end) in enumerate(self.windows)])  # fmt: skip
            for table, rows in self.tables.items():
                put(table, rows)
            whole = {"started_ns": 0, "stopped_ns": max(self.now.values(), default=0), "clean_end": "true"}
            for key, value in (whole | self.facts).items():
                recording.set_meta(key, value)
        return path


def linear(tokens: int, ins: int, outs: int, ns: float, type: str = F32, name: str = "aten::linear") -> Op:
    """A product without a bias, as torch calls it."""
    dims = [[tokens, ins], [outs, ins]]
    return Op(name, 2 * US, dims, type, [Op("aten::mm", ns, [[tokens, ins], [ins, outs]], type)])


def layer(scale: float = 1.0, type: str = F32) -> list[Op]:
    """One of a transformer."""
    return [
        Op("aten::layer_norm", 8 * US, [[16, 64]], type),
        linear(16, 64, 192, 60 * US * scale, type),
        Op("aten::softmax", 12 * US, [[4, 16, 16]], type),
        python(5 * US),
        linear(16, 64, 64, 25 * US * scale, type),
        Op("aten::add", 5 * US, [[16, 64], [16, 64]], type),
    ]


def step(layers: int = 4, scale: float = 1.0, type: str = F32, more: Sequence[Op] = ()) -> list[Op]:
    """One of a model: `more` comes in every layer."""
    return [
        Op("aten::embedding", 10 * US, [[1000, 64], [16]], type),
        *(op for _ in range(layers) for op in (*layer(scale, type), *more)),
        linear(16, 64, 1000, 150 * US * scale, type),
        Op("aten::argmax", 9 * US, [[16, 1000]], type),
        python(40 * US),
    ]


def compared(folder: Path, a: Program, b: Program) -> Diff:
    with open_pair([str(a.write(folder / "a.duckdb"))], str(b.write(folder / "b.duckdb"))) as pair:
        return compare(pair)
