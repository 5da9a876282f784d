"""Recordings of CUDA and NCCL calls whose truth is known by construction: calls by hand, times in µs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowprof.profiler.store import Recording

WHAT = {
    "cudaLaunchKernel": "launch", "cuLaunchKernel": "launch", "cudaGraphLaunch": "graph_launch",
    "cudaMemcpyAsync": "copy", "cudaMemcpy": "copy", "cudaMemsetAsync": "memset",
    "cudaStreamSynchronize": "synchronize", "cudaDeviceSynchronize": "synchronize",
    "cudaEventSynchronize": "synchronize", "cudaEventRecord": "event_record", "cudaStreamWaitEvent": "event_wait",
    "cudaEventQuery": "event_query", "cudaMalloc": "allocate", "cudaFree": "free", "ncclAllReduce": "collective",
    "ncclGroupEnd": "group", "cudaStreamBeginCapture": "capture_begin", "cudaStreamEndCapture": "capture_end",
    "cudaGraphInstantiate": "graph_instantiate",
}  # fmt: skip


@dataclass(slots=True)
class Program:
    """`call(name, start, dur, …)` in any order; `write` makes the recording."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    windows: list[tuple[str, float, float]] = field(default_factory=list)  # level, start, end; none: one without gaps

    def call(self, api: str, start: float, dur: float, stream: int | None = None, tid: int = 1, pid: int = 1,
             **about: Any) -> None:  # fmt: skip
        self.rows.append({"api": api, "start": start, "dur": dur, "stream": stream, "tid": tid, "pid": pid, **about})

    def launch(self, start: float, stream: int = 0, dur: float = 5, **about: Any) -> None:
        self.call("cudaLaunchKernel", start, dur, stream, **({"name": "k"} | about))

    def sync(self, start: float, dur: float, stream: int | None, **about: Any) -> None:
        self.call("cudaDeviceSynchronize" if stream is None else "cudaStreamSynchronize", start, dur, stream, **about)

    def write(self, path: Path) -> Recording:
        """The recording, open for reading."""
        rows = self.rows
        with Recording.create(str(path), overwrite=True) as recording:
            recording.append("api_call", {
                "call_id": list(range(len(rows))), "pid": [one["pid"] for one in rows],
                "tid": [one["tid"] for one in rows],
                "kind": ["nccl" if one["api"].startswith("nccl") else
                         "runtime" if one["api"].startswith("cuda") else "driver" for one in rows],
                "name": [one["api"] for one in rows],
                "start_ns": [round(one["start"] * 1000) for one in rows],
                "end_ns": [round((one["start"] + one["dur"]) * 1000) for one in rows], "depth": 0,
            })  # fmt: skip
            recording.append("device_call", {
                "call_id": list(range(len(rows))), "what": [WHAT[one["api"]] for one in rows],
                **{name: [one.get(name) for one in rows] for name in
                   ("stream", "name", "grid", "block", "bytes", "direction", "host_memory", "address",
                    "communicator", "graph")},
                "result": [one.get("result", 0) for one in rows],
            })  # fmt: skip
            if self.windows:
                level, start, end = zip(*self.windows, strict=True)
                recording.append("probe_window", {
                    "window_id": list(range(len(level))), "level": level,
                    "start_ns": [round(at * 1000) for at in start], "end_ns": [round(at * 1000) for at in end],
                })  # fmt: skip
        return Recording.open(str(path))
