"""How fast others' traces are imported: Kineto's JSON by events per second, with the memory that it takes.

The file repeats one operator with names, shapes and ids as PyTorch writes them: 50 % of its events are host slices,
12 % GPU slices (a real trace of an H100 has 57 % and 9 %), the rest flows and instants, which are read and left out.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from peak_memory import peak_mb
from row import Row
from traces import slice_, work

LINE = "torch/nn/modules/linear.py"
KERNEL = (
    "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<at::native::CUDAFunctor_add"
    "<c10::BFloat16> >(at::TensorIteratorBase&)::{lambda(int)#1}>(int, std::array<char*, 3ul>) variant "
)
REPEATS = 3


def write(path: Path, size_bytes: int) -> int:
    """Write a trace of about that size; returns its events."""
    events = 0
    with path.open("w") as file:
        file.write('{"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}], ')
        file.write('"baseTimeNanoseconds": 1751410836000000000, "traceEvents": [\n')
        number = 0
        while file.tell() < size_bytes:
            batch = [one for n in range(number, number + 500) for one in operator(n)]
            file.write(",\n".join(json.dumps(one) for one in batch) + ",\n")
            number += 500
            events += len(batch)
        file.write('{"ph": "i", "name": "end", "ts": 0}]}\n')
    return events + 1


def operator(number: int) -> list[dict[str, Any]]:
    """Four host slices, a kernel, two halves of a flow, a note of the allocator: 8 events."""
    at = 1_428_625_731_896.179 + 30 * number
    args = {"External id": number, "Record function id": 0, "Concrete Inputs": ["", "", "1"], "Ev Idx": number,
            "Input type": ["c10::BFloat16", "c10::BFloat16", "Scalar"], "Input Strides": [[1024, 1], [1024, 1], []],
            "Input Dims": [[number % 50 + 1, 1024], [number % 50 + 1, 1024], []]}  # fmt: skip
    flow = {"id": number, "pid": 10, "tid": 10, "ts": at, "cat": "ac2g", "name": "ac2g"}
    held = {"Total Allocated": 1003059712, "Bytes": 18317312, "Addr": 137877174353920, "Device Id": 0}
    memory = {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 10, "tid": 10, "ts": at, "args": held}
    ids = {"External id": number}
    return [
        slice_("python_function", f"{LINE}({number % 90}): forward", at - 2, 25, **{"Python id": number}),
        slice_("cpu_op", "aten::add", at, 20.5, **args),
        slice_("user_annotation", f"layer {number % 32}", at - 1, 23.25),
        slice_("cuda_runtime", "cudaLaunchKernel", at + 5, 6.125, cbid=211, correlation=number, **ids),
        work("kernel", f"{KERNEL}{number % 60}", at + 9, 12.5, number, queued=0, context=1, grid=[17888, 1, 1],
             block=[128, 1, 1], **{"External id": number, "registers per thread": 16, "warps per SM": 542.06}),
        {"ph": "s"} | flow, {"ph": "f", "bp": "e"} | flow, memory,
    ]  # fmt: skip


def imported(source: Path, folder: Path) -> tuple[float, float]:
    """Seconds of the fastest of REPEATS imports, and the most memory that one more took, in MB."""
    best = float("inf")
    arguments = ("import", str(source), "-q", "-f", "-o", str(folder / "imported.duckdb"))
    for _ in range(REPEATS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "flowprof.profiler.cli", *arguments], check=True)
        best = min(best, time.perf_counter() - begun)
    return best, peak_mb(*arguments)


def measured(small: bool = False) -> Iterator[Row]:
    """The rows, as they are measured."""
    with tempfile.TemporaryDirectory(prefix="flowprof-bench-") as name:
        folder = Path(name)
        source = folder / "trace.json"
        size = 20_000_000 if small else 500_000_000
        events = write(source, size)
        took, memory = imported(source, folder)
        note = f"{events / 1e6:.2f} M events, {size / 1e6:.0f} MB; the whole command"
        yield Row("import: Kineto JSON", events / took / 1e3, "k events/s", 300, at_least=True, note=note)
        yield Row("import: memory", memory, "MB", 1000)
        packed = folder / "trace.json.gz"
        with source.open("rb") as plain, gzip.open(packed, "wb", 1) as out:
            while part := plain.read(1 << 20):
                out.write(part)
        took, _ = imported(packed, folder)
        yield Row("import: Kineto JSON in gzip", events / took / 1e3, "k events/s", note="of the same events")


if __name__ == "__main__":
    for row in measured("--small" in sys.argv[1:]):
        print(row)
