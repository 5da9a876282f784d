"""Recordings of PyTorch's operators whose truth is known: calls in one another, states of threads, ceilings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flowprof.profiler.analyzers.torch_operators import ANALYZER
from flowprof.profiler.report import Report, build_report
from flowprof.profiler.sections.torch_operators import TorchOperator, TorchOperators
from flowprof.profiler.store import Recording
from synthetic import CEILINGS

PID = 4242
F32 = "float"
MM = ("aten::mm", [[256, 256], [256, 256]], [F32, F32])  # 33.6 MFLOP: 335.5 µs at 100 GFLOP/s
COPY = ("aten::copy_", [[4 << 20], [4 << 20]], [F32, F32])  # 33.6 MB: 479.3 µs at 70 GB/s
SOFTMAX = ("aten::softmax", [[64, 64]], [F32])  # 32.8 kB: 327.7 ns at 100 GB/s, from the cache
TINY = ("aten::mm", [[16, 16], [16, 16]], [F32, F32])  # 8192 FLOP: 81.9 ns
BF16 = ("aten::mm", [[256, 256], [256, 256]], ["c10::BFloat16", "c10::BFloat16"])
CAT = ("aten::cat", [[[4], [4]], []], ["TensorList", "Scalar"])
What = tuple[str, list, list[str]]
EVIL = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e'\"&{{7*7}}"


class Made:
    """A recording that is being made: calls one after the other or in one another, and states of threads."""

    def __init__(self, **facts: Any) -> None:
        self.calls: list[dict[str, Any]] = []
        self.states: list[dict[str, Any]] = []
        self.args: dict[str, int] = {}
        self.facts = {"sched": "yes", "llc_bytes": str(32 << 20), "cpu_model": "Synthetic CPU", "flowprof_version": "1",
                      "clean_end": "true", "started_ns": "0", "stopped_ns": "10000000000"} | facts  # fmt: skip
        self.ceilings: list[tuple[str, str, int, float]] = list(CEILINGS)
        self.computing = {PID: 5_000_000_000}  # ns of processor time by thread
        self.gpu = False
        self.source = "synthetic"
        self.comms: dict[int, str] = {PID: "python", 7: "pt_autograd_0", 8: "worker"}
        self.now = 1_000

    def call(
        self, what: What | str, start: int, end: int | None, parent: int | None = None, tid: int = PID, depth: int = 0
    ) -> int:
        """One call; its number."""
        name, dims, types = (what, None, None) if isinstance(what, str) else what
        key = json.dumps([dims, types])
        args_id = None if dims is None else self.args.setdefault(key, len(self.args) + 1)
        number = tid << 32 | len(self.calls)
        self.calls.append({"call_id": number, "pid": PID, "tid": tid, "kind": "operator", "name": name,
                           "start_ns": start, "end_ns": end, "parent_id": parent, "depth": depth,
                           "args_id": args_id})  # fmt: skip
        return number

    def row(self, what: What | str, ns: int, calls: int = 30, away: int = 0, state: str = "runnable") -> None:
        """Calls of one length, each off the processor for a while in its middle."""
        for _ in range(calls):
            self.call(what, self.now, self.now + ns)
            if away:
                self.away(self.now + (ns - away) // 2, self.now + (ns - away) // 2 + away, state)
            self.now += ns + 100

    def away(self, start: int, end: int, state: str = "runnable", tid: int = PID) -> None:
        self.states.append({"pid": PID, "tid": tid, "cpu": 0, "start_ns": start, "end_ns": end, "state": state,
                            "by_tid": 99, "by_comm": "hog"})  # fmt: skip

    def write(self, path: Path) -> str:
        with Recording.create(str(path), overwrite=True) as recording:

            def put(table: str, rows: list[dict[str, Any]]) -> None:
                if rows:
                    recording.append(table, {name: [row[name] for row in rows] for name in rows[0]})

            put("api_call", self.calls)
            put("thread_state", self.states)
            put("api_args", [dict(zip(("dims", "types"), map(json.dumps, json.loads(key)), strict=True))
                             | {"args_id": number, "scalars": "[]"} for key, number in self.args.items()])  # fmt: skip
            put("thread", [{"pid": PID, "tid": tid, "comm": comm} for tid, comm in self.comms.items()])
            put("process", [{"pid": PID, "exe": "/usr/bin/python3", "cpus_allowed": 2}])
            put("counter", [{"pid": PID, "tid": tid, "name": "task_clock_ns", "value": ns}
                            for tid, ns in self.computing.items()])  # fmt: skip
            put("ceiling", [{"what": what, "dtype": dtype, "threads": threads, "value": value, "low": value,
                             "high": value, "source": self.source}
                            for what, dtype, threads, value in self.ceilings])  # fmt: skip
            windows = (("op", 0, 4_000_000), ("token", 4_000_000, 9_000_000), ("thread", 9_000_000, 10_000_000))
            put("probe_window", [{"window_id": number, "level": level, "start_ns": start, "end_ns": end, "graphs": 0,
                                  "tokens": 0, "hits": 9, "losses": 0}
                                 for number, (level, start, end) in enumerate(windows)])  # fmt: skip
            put("probe_site", [{"site_id": n, "probe": probe, "level": "op", "hits": hits, "cost_ns": 500.0}
                               for n, probe, hits in ((1, "torch.call", 100), (2, "ggml.op", 900))])  # fmt: skip
            if self.gpu:
                put("gpu_slice", [{"slice_id": 1, "device": 0, "stream": 7, "kind": "kernel", "name": "k",
                                   "start_ns": 1, "end_ns": 2}])  # fmt: skip
            for key, value in self.facts.items():
                recording.set_meta(key, value)
        return str(path)

    def report(self, folder: Path) -> Report:
        with Recording.open(self.write(folder / "a.duckdb")) as recording:
            return build_report(recording)

    def table(self, folder: Path) -> TorchOperators:
        with Recording.open(self.write(folder / "a.duckdb")) as recording:
            outcome = ANALYZER.run(recording)
        assert isinstance(outcome.value, TorchOperators), (outcome.status, outcome.reason)
        return outcome.value


def by_name(table: TorchOperators) -> dict[str, TorchOperator]:
    return {row.name: row for row in table.rows}
