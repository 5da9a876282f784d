"""How fast the overlap of a recording is analysed: `flowprof overlap` on a million slices of GPU work.

    python tests/benchmarks/bench_overlap.py [--small]

The whole command is timed, as a user sees it, best of three; the analysis alone (`overlap.table`) beside it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flowprof.profiler.analyzers import overlap
from flowprof.profiler.sections.overlap import OverlapTable
from flowprof.profiler.store import Recording
from row import Row

REPEATS = 3
SHAPES = ("[[2048,8192],[8192,1280]]", "[[1365,8,1,128],[1365,1,1024,128],[1365,1,1024,128]]",
          "[[2048,8192],[8192,7168]]")  # fmt: skip
KINDS = ("kernel", "kernel", "collective", "kernel", "copy")
NAMES = ("gemm", "flash_fwd", "ncclDevKernel_AllReduce", "gemm_up", "Memcpy HtoD (Pageable -> Device)")
OPERATORS = ("aten::mm", "aten::_scaled_dot_product_flash_attention", "", "aten::mm", "")
DUR_NS = (201_000, 445_000, 299_000, 874_000, 50_000)


def write(path: Path, slices: int) -> None:
    """Work in turns of five slices, launched by one thread, each with its operator and call; a wait every fifty."""
    number = np.arange(slices)
    kind = number % len(KINDS)
    end = np.cumsum(np.array(DUR_NS)[kind] + 1_000)
    start = end - np.array(DUR_NS)[kind]
    launch = np.maximum(start - 100_000, 0)
    waits = start[::50]
    operators = np.flatnonzero(np.array([bool(name) for name in OPERATORS])[kind])
    with Recording.create(str(path)) as recording, recording.batch():
        for key, value in (("imported_from", "Kineto JSON"), ("gpu_model", "1 x A100"), ("started_ns", 0),
                           ("stopped_ns", int(end[-1]))):  # fmt: skip
            recording.set_meta(key, value)
        recording.append("gpu_device", {"device": [0], "name": ["A100"]})
        recording.append("api_args", {"args_id": [0, 1, 2], "dims": list(SHAPES),
                                      "types": ['["c10::Half","c10::Half","c10::Half"]'] * 3})  # fmt: skip
        recording.append("gpu_slice", {
            "slice_id": number, "pid": 1, "device": 0, "stream": np.where(kind == 4, 9, 7),
            "kind": np.array(KINDS, object)[kind], "name": np.array(NAMES, object)[kind], "start_ns": start,
            "end_ns": end, "correlation": number + 1, "direction": np.array([None] * 4 + ["HtoD"], object)[kind],
            "host_memory": np.array([None] * 4 + ["pageable"], object)[kind],
        })  # fmt: skip
        recording.append("api_call", {
            "call_id": number, "pid": 1, "tid": 1, "kind": "runtime", "start_ns": launch,
            "name": np.where(kind == 4, "cudaMemcpyAsync", "cudaLaunchKernel").astype(object),
            "end_ns": launch + np.where(kind == 4, 160_000, 3_000), "depth": 0, "correlation": number + 1,
            "parent_id": np.ma.masked_equal(np.where(np.isin(kind, (2, 4)), -1, slices + number), -1),
        })  # fmt: skip
        recording.append("api_call", {
            "call_id": slices + operators, "pid": 1, "tid": 1, "kind": "operator",
            "name": np.array(OPERATORS, object)[kind[operators]], "start_ns": launch[operators] - 500,
            "end_ns": launch[operators] + 4_000, "depth": 0, "args_id": np.array([0, 1, 0, 2, 0])[kind[operators]],
        })  # fmt: skip
        recording.append("api_call", {
            "call_id": 2 * slices + np.arange(len(waits)), "pid": 1, "tid": 1, "kind": "runtime", "depth": 0,
            "name": "cudaStreamSynchronize", "start_ns": waits - 90_000, "end_ns": waits - 500,
        })  # fmt: skip


def analysed(path: Path) -> tuple[float, OverlapTable]:
    """Seconds of the fastest analysis, the recording opened anew each time."""
    best = float("inf")
    for _ in range(REPEATS):
        with Recording.open(str(path)) as recording:
            begun = time.perf_counter()
            found = overlap.table(recording)
            best = min(best, time.perf_counter() - begun)
    return best, found


def measured(small: bool = False) -> Iterator[Row]:
    """The rows, as they are measured."""
    slices = 100_000 if small else 1_000_000
    with tempfile.TemporaryDirectory(prefix="flowprof-bench-") as name:
        path = Path(name) / "million.duckdb"
        write(path, slices)
        took, found = analysed(path)
        note = f"{len(found.overlaps)} found, {path.stat().st_size / 1e6:.0f} MB"
        yield Row(f"overlap: analysis of {slices / 1e6:.3g} M slices", took, "s", 5, note=note)
        command = (sys.executable, "-m", "flowprof.profiler.cli", "overlap", str(path))
        yield Row(f"overlap: the whole command, {slices / 1e6:.3g} M slices", timed(*command), "s")


def timed(*command: str) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - begun)
    return best


if __name__ == "__main__":
    for row in measured("--small" in sys.argv[1:]):
        print(row)
