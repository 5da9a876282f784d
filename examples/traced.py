"""Write a small trace of a GPU with one cause in it, import it, and show the report that names it.

No GPU is needed: the trace is what torch.profiler would have written, with times as they are set here. The programs
that use this plant one cause each, like those of planted.py:

    .venv/bin/python -m flowprof.examples.pageable_copy [-o FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowprof.examples.planted import FLOWPROF, where

HALF = "c10::Half"
GPU = "NVIDIA A100-SXM4-80GB"


@dataclass(frozen=True, slots=True)
class Traced:
    """A cause and the finding that it must lead to. `write` puts it into a trace."""

    finding: str
    write: Callable[[Trace], None]


@dataclass(slots=True)
class Trace:
    """Work of one thread and one GPU. Times in µs."""

    events: list[dict[str, Any]] = field(default_factory=list)
    launches: int = 0

    def work(
        self, kernel: str, start: float, us: float, *, launched: float, stream: int = 7, operator: str = "",
        shapes: Sequence[Sequence[int]] = (), api: str = "cudaLaunchKernel", call_us: float = 2.0,
    ) -> float:  # fmt: skip
        """A kernel or a copy, the call that launched it, and the operator around that; returns when it ends."""
        self.launches += 1
        if operator:
            args: dict[str, Any] = {
                "External id": self.launches,
                "Input Dims": list(shapes),
                "Input type": [HALF] * len(shapes),
            }
            self._slice("cpu_op", operator, launched - 0.5, call_us + 1, **args)
        self._slice("cuda_runtime", api, launched, call_us, correlation=self.launches)
        found: dict[str, Any] = {"correlation": self.launches, "device": 0, "stream": stream}
        if operator:
            found["External id"] = self.launches
        self._slice("gpu_memcpy" if kernel.startswith("Memcpy") else "kernel", kernel, start, us, 0, stream, **found)
        return start + us

    def product(self, start: float, us: float, m: int, k: int, n: int, **more: Any) -> float:
        return self.work("ampere_gemm", start, us, operator="aten::mm", shapes=((m, k), (k, n)), **more)

    def wait(self, begin: float, end: float, api: str = "cudaStreamSynchronize") -> None:
        self._slice("cuda_runtime", api, begin, end - begin)

    def _slice(self, kind: str, name: str, start: float, us: float, pid: int = 10, tid: int = 10, **args: Any) -> None:
        self.events.append({"ph": "X", "cat": kind, "name": name, "pid": pid, "tid": tid, "ts": start, "dur": us,
                            "args": args})  # fmt: skip


def show(traced: Traced, arguments: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit status."""
    parser = argparse.ArgumentParser(description=f"Plants what flowprof finds as {traced.finding}.")
    parser.add_argument("-o", "--output", default=f"{traced.finding}.duckdb", help="default: %(default)s")
    asked = parser.parse_args(arguments)
    trace = Trace()
    traced.write(trace)
    path = Path(f"{asked.output}.json")
    path.write_text(json.dumps({
        "schemaVersion": 1, "deviceProperties": [{"id": 0, "name": GPU}], "traceEvents": trace.events}))  # fmt: skip
    try:
        for command in (["import", str(path), "-f", "-o", asked.output], ["report", asked.output]):
            status = subprocess.run([*FLOWPROF, *command], check=False).returncode
            if status:
                return status
    finally:
        path.unlink()
    return where(traced.finding, asked.output)
