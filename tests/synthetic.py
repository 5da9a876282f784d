"""Synthetic recordings with a known truth: a model of L layers run by T threads for N tokens, through windows.

Everything is vectorised per request, so that ten million operators are made in seconds. With `jitter=0` every
operator's time is exactly its base time × its level's slow-down, and the expected report can be worked out by hand.

    truth = write(path, Synthetic(layers=22, requests=4, tokens=64))
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import numpy as np
from flowprof.profiler.store import Recording

PID = 4242
START_NS = 1_000_000_000_000
FLUSH_ROWS = 1_000_000
EMBEDDING, KV_WIDTH, HEAD, FEED_FORWARD, CONTEXT = 2048, 256, 64, 5632, 256
VOCABULARY = 18_432  # so many that the last product is as fast as the others
BYTES = {"f32": 4, "f16": 2, "i32": 4, "i64": 8, "q8_0": 34 / 32}

# what, dtype, threads, value: of a machine on which the large products of decode reach 77 GB/s = 85 % of the DRAM
# ceiling, and those of prefill 360 GOP/s = 80 % of the int8 peak
CEILINGS: tuple[tuple[str, str, int, float], ...] = (
    ("dram_read", "", 1, 70e9), ("dram_read", "", 2, 90e9), ("llc_read", "", 1, 100e9), ("llc_read", "", 2, 200e9),
    ("l2_read", "", 2, 300e9), ("gemm", "f32", 1, 100e9), ("gemm", "f32", 2, 200e9), ("gemm", "int8", 2, 450e9),
)  # fmt: skip

# op, tensor name, block, base ns in decode, runs in the compute loop, weight bytes
LAYER_OPS: tuple[tuple[str, str, str, int, bool], ...] = (
    ("RMS_NORM", "norm", "attention", 4_000, True),
    ("MUL", "attn_norm", "attention", 0, False),
    ("MUL_MAT", "Qcur", "attention", 60_000, True),
    ("MUL_MAT", "Kcur", "attention", 20_000, True),
    ("MUL_MAT", "Vcur", "attention", 20_000, True),
    ("RESHAPE", "Qcur (reshaped)", "attention", 0, False),
    ("ROPE", "Qcur", "attention", 6_000, True),
    ("ROPE", "Kcur", "attention", 3_000, True),
    ("SET_ROWS", "cache_k_l", "attention", 2_000, True),
    ("SET_ROWS", "cache_v_l", "attention", 2_000, True),
    ("MUL_MAT", "kq", "attention", 12_000, True),
    ("SOFT_MAX", "kq_soft_max", "attention", 5_000, True),
    ("MUL_MAT", "kqv", "attention", 11_000, True),
    ("CONT", "kqv_out", "attention", 2_000, True),
    ("MUL_MAT", "attn_out", "attention", 58_000, True),
    ("ADD", "ffn_inp", "ffn", 3_000, True),
    ("RMS_NORM", "norm", "ffn", 4_000, True),
    ("MUL", "ffn_norm", "ffn", 0, False),
    ("MUL_MAT", "ffn_gate", "ffn", 160_000, True),
    ("MUL_MAT", "ffn_up", "ffn", 160_000, True),
    ("GLU", "ffn_swiglu", "ffn", 9_000, True),
    ("MUL_MAT", "ffn_out", "ffn", 170_000, True),
    ("ADD", "l_out", "ffn", 3_000, True),
)
EXPERT_PRODUCTS = ("ffn_gate", "ffn_up", "ffn_out")  # with Synthetic.experts


@dataclass(frozen=True, slots=True)
class Synthetic:
    """What to record. Times in ns."""

    layers: int = 4
    threads: int = 2
    requests: int = 3
    tokens: int = 47  # generated per request
    prompt: int = 100  # tokens per prompt, one prefill graph each
    cycle: tuple[str, ...] = ("token", "op", "token", "thread")  # levels of successive windows
    graphs_per_window: int = 5
    slowdown: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of token, op, thread windows
    jitter: float = 0.0  # relative standard deviation of an operator's time
    imbalance: float = 0.25  # how much earlier than the first the last thread is done, relative
    gap_ns: int = 200_000  # between graphs: sampling, the server
    pause_ns: int = 50_000_000  # between requests
    losses: int = 0
    ceilings: tuple[tuple[str, str, int, float], ...] = ()  # e.g. CEILINGS
    experts: tuple[int, int] | None = None  # that there are (a power of two), and used by a token
    with_requests: bool = True
    rename: dict[str, str] = field(default_factory=dict)  # tensor names to replace (hostile ones)
    meta: dict[str, str] = field(default_factory=dict)
    seed: int = 1


@dataclass(slots=True)
class Truth:
    """What the report must say."""

    graphs: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by phase
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    total_ns: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    measured_graphs: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # with operators
    measured_ns: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    # (op, block, phase) → [calls, ns] on the first thread
    operators: dict[tuple[str, str, str], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    layers: dict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(int))  # (layer, phase) → ns
    compute_ns: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # ith → ns
    wait_ns: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    windows: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    op_rows: int = 0


@dataclass(frozen=True, slots=True)
class _Graph:
    graph_id: int
    phase: str
    tokens: int
    node: np.ndarray  # node_index of what executes
    base: np.ndarray  # ns each
    keys: list[tuple[str, str]]  # (op, block) each
    layer: np.ndarray  # -1 outside
    rows: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Tensor:
    op: str
    name: str
    block: str
    layer: int | None
    base_ns: int
    runs: bool
    type: str
    ne: tuple[int, ...]
    sources: tuple[str, ...] = ()  # keys of the tensors read


def _layer(spec: Synthetic, layer: int, tokens: int, before: str) -> tuple[dict[str, _Tensor], dict[str, _Tensor]]:
    """A layer's nodes in order and its leaves, by key: LAYER_OPS with llama's shapes and sources."""
    heads, head = EMBEDDING // HEAD, HEAD
    at = [f"{layer}.{number}" for number in range(len(LAYER_OPS))]
    leaves = {
        f"{layer}.{name}": _Tensor("NONE", f"blk.{layer}.{name}.weight", "other", layer, 0, False,
                                   "f32" if "norm" in name else "q8_0", ne)
        for name, ne in (
            ("attn_norm", (EMBEDDING,)), ("attn_q", (EMBEDDING, EMBEDDING)), ("attn_k", (EMBEDDING, KV_WIDTH)),
            ("attn_v", (EMBEDDING, KV_WIDTH)), ("attn_output", (EMBEDDING, EMBEDDING)), ("ffn_norm", (EMBEDDING,)),
            ("ffn_gate", (EMBEDDING, FEED_FORWARD)), ("ffn_up", (EMBEDDING, FEED_FORWARD)),
            ("ffn_down", (FEED_FORWARD, EMBEDDING)),
        )
    }  # fmt: skip
    for name in ("k", "v"):
        leaves[f"{layer}.cache_{name}"] = _Tensor("NONE", f"cache_{name}_l{layer}", "other", layer, 0, False, "f16",
                                                  (KV_WIDTH, CONTEXT))  # fmt: skip
    wide, thin, deep = (EMBEDDING, tokens), (KV_WIDTH, tokens), (FEED_FORWARD, tokens)
    per_head, cells = (head, heads, tokens), (head, CONTEXT, KV_WIDTH // HEAD)
    shaped: list[tuple[tuple[int, ...], tuple[str, ...]]] = [
        (wide, (before,)), (wide, (at[0], f"{layer}.attn_norm")),
        (wide, (f"{layer}.attn_q", at[1])), (thin, (f"{layer}.attn_k", at[1])), (thin, (f"{layer}.attn_v", at[1])),
        (per_head, (at[2],)), (per_head, (at[5], "inp_pos")), (thin, (at[3], "inp_pos")),
        ((KV_WIDTH, CONTEXT), (at[7], "inp_rows", f"{layer}.cache_k")),
        ((KV_WIDTH, CONTEXT), (at[4], "inp_rows", f"{layer}.cache_v")),
        ((CONTEXT, tokens, heads), (f"{layer}.k", f"{layer}.q")), ((CONTEXT, tokens, heads), (at[10], "inp_mask")),
        ((head, tokens, heads), (f"{layer}.v", at[11])), (wide, (at[12],)),
        (wide, (f"{layer}.attn_output", at[13])), (wide, (at[14], before)), (wide, (at[15],)),
        (wide, (at[16], f"{layer}.ffn_norm")), (deep, (f"{layer}.ffn_gate", at[17])),
        (deep, (f"{layer}.ffn_up", at[17])), (deep, (at[18], at[19])), (wide, (f"{layer}.ffn_down", at[20])),
        (wide, (at[21], at[15])),
    ]  # fmt: skip
    nodes: dict[str, _Tensor] = {}
    for key, (op, name, block, ns, runs), (ne, sources) in zip(at, LAYER_OPS, shaped, strict=True):
        if spec.experts is not None and name in EXPERT_PRODUCTS:
            there, used = spec.experts
            if f"{layer}.ids" not in nodes:
                nodes[f"{layer}.ids"] = _Tensor("VIEW", f"ffn_moe_topk-{layer}", "moe", layer, 0, False, "i32",
                                                (used, tokens), (at[17],))  # fmt: skip
            matrix = leaves[sources[0]]
            leaves[sources[0]] = replace(matrix, ne=(*matrix.ne, there))
            op, block, ne, sources = "MUL_MAT_ID", "moe", (ne[0], used, tokens), (*sources, f"{layer}.ids")
        if key == at[10]:
            nodes[f"{layer}.q"] = _Tensor("PERMUTE", f"q-{layer}", block, layer, 0, False, "f32", (head, tokens, heads),
                                          (at[6],))  # fmt: skip
            for part, view in (("k", cells), ("v", (CONTEXT, head, KV_WIDTH // HEAD))):
                nodes[f"{layer}.{part}"] = _Tensor("VIEW", f"cache_{part}_l{layer} (view)", block, layer, 0, False,
                                                   "f16", view, (f"{layer}.cache_{part}",))  # fmt: skip
        kind = "f16" if op == "SET_ROWS" else "f32"
        full = spec.rename.get(name, f"{name}-{layer}")
        nodes[key] = _Tensor(op, full, block, layer, ns, runs, kind, ne, sources)
    return nodes, leaves


def model_graph(spec: Synthetic, graph_id: int, phase: str, tokens: int, scale: float) -> _Graph:
    wide = (EMBEDDING, tokens)
    nodes = {"embd": _Tensor("GET_ROWS", "inp_embd", "other", None, 3_000, True, "f32", wide, ("table", "inp_tokens"))}
    leaves = {
        "table": _Tensor("NONE", "token_embd.weight", "other", None, 0, False, "q8_0", (EMBEDDING, VOCABULARY)),
        "head": _Tensor("NONE", "output.weight", "output", None, 0, False, "q8_0", (EMBEDDING, VOCABULARY)),
        "head_norm": _Tensor("NONE", "output_norm.weight", "output", None, 0, False, "f32", (EMBEDDING,)),
        "inp_tokens": _Tensor("NONE", "inp_tokens", "other", None, 0, False, "i32", (tokens,)),
        "inp_pos": _Tensor("NONE", "inp_pos", "other", None, 0, False, "i32", (tokens,)),
        "inp_rows": _Tensor("NONE", "inp_rows", "other", None, 0, False, "i64", (tokens,)),
        "inp_mask": _Tensor("NONE", "kq_mask", "other", None, 0, False, "f32", (CONTEXT, tokens)),
    }
    before = "embd"
    for layer in range(spec.layers):
        more, theirs = _layer(spec, layer, tokens, before)
        nodes |= more
        leaves |= theirs
        before = f"{layer}.{len(LAYER_OPS) - 1}"
    nodes |= {
        "n": _Tensor("RMS_NORM", "norm", "output", None, 4_000, True, "f32", wide, (before,)),
        "m": _Tensor("MUL", "result_norm", "output", None, 0, False, "f32", wide, ("n", "head_norm")),
        "out": _Tensor("MUL_MAT", "result_output", "output", None, 500_000, True, "f32", (VOCABULARY, tokens),
                       ("head", "m")),
    }  # fmt: skip
    everything = nodes | leaves
    place = {key: at for at, key in enumerate(everything)}
    tensors = list(everything.values())
    executes = np.array([tensor.runs for tensor in tensors])
    data_bytes = [round(math.prod(tensor.ne) * BYTES[tensor.type]) for tensor in tensors]
    rows = {
        "graph_id": graph_id,
        "node_index": np.arange(len(tensors), dtype=np.int32),
        "leaf": np.arange(len(tensors)) >= len(nodes),
        "op": [tensor.op for tensor in tensors],
        "name": [tensor.name for tensor in tensors],
        "type": [tensor.type for tensor in tensors],
        "layer": [tensor.layer for tensor in tensors],
        "block": [tensor.block for tensor in tensors],
        "ne": [list((*tensor.ne, 1, 1, 1)[:4]) for tensor in tensors],
        "size_bytes": data_bytes,
        "data_bytes": data_bytes,
        "sources": [[place[source] for source in tensor.sources] for tensor in tensors],
        "executes": executes,
    }
    chosen = [tensor for tensor in tensors if tensor.runs]
    return _Graph(
        graph_id=graph_id,
        phase=phase,
        tokens=tokens,
        node=np.flatnonzero(executes).astype(np.int32),
        base=np.array([tensor.base_ns * scale for tensor in chosen]),
        keys=[(tensor.op, tensor.block) for tensor in chosen],
        layer=np.array([-1 if tensor.layer is None else tensor.layer for tensor in chosen]),
        rows=rows,
    )


def write(path: str, spec: Synthetic | None = None) -> Truth:
    """Write the recording to `path` (overwriting it) and return what is true of it."""
    spec = spec or Synthetic()
    writer = _Writer(spec, Recording.create(path, overwrite=True))
    return writer.run()


class _Writer:
    def __init__(self, spec: Synthetic, recording: Recording) -> None:
        self.spec = spec
        self.recording = recording
        self.truth = Truth()
        self.rng = np.random.default_rng(spec.seed)
        self.prefill = model_graph(spec, 1, "prefill", spec.prompt, spec.prompt * 0.4)
        self.decode = model_graph(spec, 2, "decode", 1, 1.0)
        self.now = START_NS
        self.exec_id = 0
        self.pending: list[dict[str, Any]] = []
        self.pending_rows = 0
        self.windows: list[dict[str, Any]] = []

    def run(self) -> Truth:
        with self.recording as recording:
            self._facts()
            for request in range(self.spec.requests):
                posted = self.now
                ends = self._request()
                if self.spec.with_requests:
                    recording.append(
                        "request",
                        {"pid": PID, "task_id": [request], "slot": 0, "posted_ns": posted - 1_000_000,
                         "first_result_ns": int(ends[0]) + 100_000, "end_ns": int(ends[-1]) + 100_000,
                         "results": len(ends)},
                    )  # fmt: skip
                self.now += self.spec.pause_ns
            self._flush()
            self._end()
        return self.truth

    # ------------------------------------------------------------------ executions

    def _request(self) -> np.ndarray:
        graphs = [self.prefill] + [self.decode] * self.spec.tokens
        count = len(graphs)
        index = np.arange(self.exec_id, self.exec_id + count)
        window = index // self.spec.graphs_per_window
        levels = [self.spec.cycle[w % len(self.spec.cycle)] for w in window]
        slow = dict(zip(("token", "op", "thread"), self.spec.slowdown, strict=True))
        durations: list[np.ndarray] = []  # one matrix per graph kind: executions × operators
        for graph, part in ((self.prefill, slice(0, 1)), (self.decode, slice(1, None))):
            factor = np.array([slow[level] for level in levels[part]])
            matrix = graph.base[None, :] * factor[:, None]
            if self.spec.jitter:
                matrix = matrix * self.rng.normal(1.0, self.spec.jitter, matrix.shape).clip(0.3, 5.0)
            durations.append(np.rint(matrix).astype(np.int64))
        total = np.concatenate([matrix.sum(axis=1) for matrix in durations])
        start = self.now + np.concatenate(([0], np.cumsum(total + self.spec.gap_ns)[:-1]))
        self.recording.append(
            "graph_exec",
            {"exec_id": index, "pid": PID, "tid": PID, "graph_id": [graph.graph_id for graph in graphs],
             "window_id": window, "start_ns": start, "end_ns": start + total, "level": levels},
        )  # fmt: skip
        level_array = np.array(levels)
        for graph, matrix, part in (
            (self.prefill, durations[0], slice(0, 1)),
            (self.decode, durations[1], slice(1, None)),
        ):
            self._count(graph, matrix, level_array[part])
            for level in ("op", "thread"):
                chosen = np.flatnonzero(level_array[part] == level)
                if len(chosen):
                    self._operators(graph, matrix[chosen], start[part][chosen], index[part][chosen], level)
        for number in np.unique(window):
            mine = np.flatnonzero(window == number)
            self._window(int(number), levels[mine[0]], int(start[mine[0]]), int(start[mine[-1]] + total[mine[-1]]),
                         [graphs[i] for i in mine])  # fmt: skip
        self.exec_id += count
        self.now = int(start[-1] + total[-1] + self.spec.gap_ns)
        return (start + total)[1:]

    def _count(self, graph: _Graph, matrix: np.ndarray, levels: np.ndarray) -> None:
        truth, phase = self.truth, graph.phase
        truth.graphs[phase] += len(matrix)
        truth.tokens[phase] += len(matrix) * graph.tokens
        truth.total_ns[phase] += int(matrix.sum())
        measured = matrix[levels != "token"]
        truth.measured_graphs[phase] += len(measured)
        truth.measured_ns[phase] += int(measured.sum())
        sums = measured.sum(axis=0)
        for (op, block), layer, ns in zip(graph.keys, graph.layer, sums, strict=True):
            entry = truth.operators[op, block, phase]
            entry[0] += len(measured)
            entry[1] += int(ns)
            if layer >= 0:
                truth.layers[int(layer), phase] += int(ns)

    def _operators(self, graph: _Graph, matrix: np.ndarray, start: np.ndarray, index: np.ndarray, level: str) -> None:
        ends = start[:, None] + matrix.cumsum(axis=1)
        begins = ends - matrix
        shape = matrix.shape
        threads = self.spec.threads if level == "thread" else 1
        for ith in range(threads):
            share = 1.0 - self.spec.imbalance * ith / max(1, threads - 1) if threads > 1 else 1.0
            compute = np.rint(matrix * share).astype(np.int64)
            done = (begins + compute).ravel()
            if level == "thread":
                self.truth.compute_ns[ith] += int(compute.sum())
                self.truth.wait_ns[ith] += int((matrix - compute).sum())
            self.pending.append({
                "exec_id": np.repeat(index, shape[1]),
                "node_index": np.tile(graph.node, shape[0]),
                "tid": np.full(matrix.size, PID + ith, dtype=np.int32),
                "ith": np.full(matrix.size, ith, dtype=np.int16),
                "start_ns": begins.ravel(),
                "compute_end_ns": np.ma.array(done, mask=np.full(matrix.size, level == "op")),
                "end_ns": ends.ravel(),
            })  # fmt: skip
            self.pending_rows += matrix.size
            self.truth.op_rows += matrix.size
        if self.spec.experts is not None:
            self._expert_uses(graph, index, *self.spec.experts)
        if self.pending_rows >= FLUSH_ROWS:
            self._flush()

    def _expert_uses(self, graph: _Graph, index: np.ndarray, experts: int, used: int) -> None:
        """Every token uses `used` different ones: from any one on, in steps of any odd width."""
        layers = [int(node) for node, (op, _) in zip(graph.node, graph.keys, strict=True) if op == "MUL_MAT_ID"][::3]
        shape = (len(index), len(layers), graph.tokens)
        first = self.rng.integers(0, experts, shape)
        step = 1 + 2 * self.rng.integers(0, experts // 2, shape)
        rows = (*shape, used)
        self.recording.append("expert_use", {
            "exec_id": np.broadcast_to(index[:, None, None, None], rows).ravel(),
            "node_index": np.broadcast_to(np.array(layers, np.int32)[:, None, None], rows).ravel(),
            "token": np.broadcast_to(np.arange(graph.tokens, dtype=np.int32)[:, None], rows).ravel(),
            "rank": np.broadcast_to(np.arange(used, dtype=np.int16), rows).ravel(),
            "expert": ((first[..., None] + step[..., None] * np.arange(used)) % experts).astype(np.int32).ravel(),
        })  # fmt: skip

    def _flush(self) -> None:
        if not self.pending:
            return
        columns: dict[str, Any] = {name: np.concatenate([part[name] for part in self.pending])
                                   for name in self.pending[0] if name != "compute_end_ns"}  # fmt: skip
        columns["compute_end_ns"] = np.ma.concatenate([part["compute_end_ns"] for part in self.pending])
        with self.recording.batch():
            self.recording.append("op_exec", columns)
        self.pending, self.pending_rows = [], 0

    def _window(self, number: int, level: str, start: int, end: int, graphs: list[_Graph]) -> None:
        if self.windows and self.windows[-1]["window_id"] == number:  # goes on over a pause between requests
            last = self.windows[-1]
            last["end_ns"] = end
            last["graphs"] += len(graphs)
            last["tokens"] += sum(graph.tokens for graph in graphs)
            return
        self.truth.windows[level] += 1
        self.windows.append({"window_id": number, "level": level, "start_ns": start, "end_ns": end,
                             "graphs": len(graphs), "tokens": sum(graph.tokens for graph in graphs)})  # fmt: skip

    # ------------------------------------------------------------------ the rest

    def _facts(self) -> None:
        spec, recording = self.spec, self.recording
        recording.append("process", {"pid": [PID], "ppid": 1, "uid": 1000, "exe": "/usr/bin/llama-server",
                                     "cmdline": "llama-server -m model.gguf", "started_ns": START_NS - 10**9,
                                     "cpus_allowed": spec.threads})  # fmt: skip
        recording.append("thread", {"pid": PID, "tid": np.arange(PID, PID + spec.threads), "comm": "llama-server",
                                    "ith": np.arange(spec.threads)})  # fmt: skip
        recording.append("module", {"module_id": [1], "pid": PID, "path": "/usr/lib/libggml-cpu.so",
                                    "build_id": "ab" * 20, "engine": "ggml", "engine_version": "b7342",
                                    "size_bytes": 12_345_678, "instructions": "avx2 fma"})  # fmt: skip
        recording.append("model", {"pid": [PID], "architecture": "llama", "parameters": 1_100_000_000,
                                   "layers": spec.layers, "embedding": EMBEDDING, "vocabulary": 32000, "experts": None,
                                   "weight_bytes": 1_170_000_000, "weight_types": "q8_0, f32"})  # fmt: skip
        for graph in (self.prefill, self.decode):
            executed = len(graph.node)
            recording.append("graph", {"graph_id": [graph.graph_id], "pid": PID, "uid": graph.graph_id,
                                       "nodes": int((~np.asarray(graph.rows["leaf"])).sum()), "operators": executed,
                                       "tokens": graph.tokens, "outputs": 1, "phase": graph.phase,
                                       "described": True})  # fmt: skip
            recording.append("graph_node", graph.rows)

    def _end(self) -> None:
        spec, recording = self.spec, self.recording
        for window, following in itertools.pairwise(self.windows):  # a recording's windows touch
            window["end_ns"] = following["start_ns"]
        columns = {name: [window[name] for window in self.windows] for name in self.windows[0]}
        losses = np.zeros(len(self.windows), dtype=np.int64)
        losses[0] = spec.losses
        recording.append("probe_window", {**columns, "hits": 0, "losses": losses})
        if spec.losses:
            recording.append("loss", {"window_id": [0], "place": "ring", "events": spec.losses})
        recording.append("probe_site", {
            "site_id": [1, 2, 3], "module_id": 1, "probe": ["ggml.graph", "ggml.op", "ggml.barrier"],
            "level": ["graph", "op", "thread"], "kind": ["entry", "entry", "call"],
            "symbol": ["ggml_graph_compute", "ggml_cpu_extra_compute_forward", "ggml_graph_compute_thread"],
            "file_offset": [4096, 8192, 12288], "instruction": ["push rbp", "push rbx", "call 0x3000"],
            "cost_class": "emulated", "status": "attached", "reason": "",
            "hits": [self.exec_id, self.truth.op_rows, self.truth.op_rows], "cost_ns": [420.0, 410.0, 430.0],
        })  # fmt: skip
        if spec.ceilings:
            what, dtype, threads, value = zip(*spec.ceilings, strict=True)
            recording.append("ceiling", {"what": what, "dtype": dtype, "threads": threads, "value": value,
                                         "low": [0.98 * figure for figure in value], "high": value,
                                         "source": "synthetic"})  # fmt: skip
        facts = {
            "llc_bytes": str(32 << 20),
            "flowprof_version": "0.1.0", "host": "testhost", "boot_id": "0" * 8, "kernel": "6.12.0", "arch": "x86_64",
            "cpu_model": "Synthetic CPU", "cpus": spec.threads, "command_line": "flowprof attach 4242",
            "levels": "token,op,thread", "budget": "0.01", "full": "false", "rung": "operator site",
            "rung_reason": "ggml_cpu_extra_compute_forward found in .dynsym", "layout": "version", "clean_end": "true",
            "started_ns": START_NS - 5_000_000, "started_unix_ns": 1_760_000_000_000_000_000,
            "stopped_ns": self.now, "stopped_unix_ns": 1_760_000_000_000_000_000 + self.now - START_NS,
        } | spec.meta  # fmt: skip
        for key, value in facts.items():
            recording.set_meta(key, value)


def grow_context(path: str, graphs: int) -> None:
    """Make the steps of decode those of a growing context: so many graphs in turn, each reads more of the cache."""
    cells = f"{CONTEXT} * (1 + number)"
    with duckdb.connect(path) as db:
        db.execute(
            "INSERT INTO graph SELECT g.* REPLACE (2 + number AS graph_id, 2 + number AS uid) "
            "FROM graph g, range(1, ?) t(number) WHERE graph_id = 2",
            [graphs],
        )
        db.execute(
            f"""
            INSERT INTO graph_node SELECT n.* REPLACE (2 + number AS graph_id, CASE
                WHEN op = 'SOFT_MAX' OR name LIKE 'kq-%' OR name = 'kq_mask' THEN [{cells}, ne[2], ne[3], ne[4]]
                WHEN name LIKE 'cache_k%(view)' THEN [ne[1], {cells}, ne[3], ne[4]]
                WHEN name LIKE 'cache_v%(view)' THEN [{cells}, ne[2], ne[3], ne[4]] ELSE ne END AS ne)
            FROM graph_node n, range(1, ?) t(number) WHERE graph_id = 2 ORDER BY number, leaf, node_index
            """,
            [graphs],
        )
        db.execute(
            "UPDATE graph_exec SET graph_id = 2 + exec_id * ? // (SELECT max(exec_id) + 1 FROM graph_exec) "
            "WHERE graph_id = 2",
            [graphs],
        )


def write_empty(path: str) -> None:
    """A recording in which nothing happened: only the schema."""
    Recording.create(path, overwrite=True).close()


def sized(operators: int, threads: int = 2) -> Synthetic:
    """About `operators` rows of op_exec, all at thread level with a token window in between, 22 layers."""
    per_token = (22 * sum(1 for op in LAYER_OPS if op[4]) + 3) * threads
    share = 3 / 4
    tokens = round(operators / per_token / share)
    requests = max(1, tokens // 100)
    return Synthetic(layers=22, threads=threads, requests=requests, tokens=max(1, tokens // requests - 1),
                     cycle=("token", "thread", "thread", "thread"), graphs_per_window=10, jitter=0.08,
                     slowdown=(1.0, 1.015, 1.04))  # fmt: skip
