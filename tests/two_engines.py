"""Recordings of two engines whose truth is known: the second one works now and then, and the first one's products take
`factor` times as long meanwhile. Both run a model of two layers (synthetic.py), one thread each, in decode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flowprof.profiler.store import Recording
from synthetic import CEILINGS, Synthetic, model_graph

FIRST, SECOND = 100, 200  # processes; their threads have the same numbers
START_NS = 1_000_000_000_000
SLOW = 1.4  # one thread reaches so much less than the two of CEILINGS: 55 GB/s
MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Engines:
    factor: float = 1.6  # of the first one's products beside the second one
    jitter: float = 0.03  # relative standard deviation of an operator's time
    executions: int = 240  # of the first one
    on_ms: float = 60.0
    off_ms: float = 60.0
    apart: bool = False  # the first one rests while the second one works
    periods: int | None = None  # how often the second one works; None: all along
    starved: float = 0.0  # share of the first one's products beside it that lose their processor, for 1 ms
    ceilings: float = 1.0  # times CEILINGS; 0: none
    llc_bytes: int = 32 << 20
    same_file: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Truth:
    products_ns: float  # of a token, alone


def write(path: Path, spec: Engines) -> Truth:
    random = np.random.default_rng(spec.seed)
    graphs = {
        pid: model_graph(Synthetic(layers=2), number, "decode", 1, SLOW)
        for number, pid in enumerate((FIRST, SECOND), start=1)
    }
    graph = graphs[FIRST]
    large = 40_000  # ns: what is shorter reads less than 1 MiB
    product = np.array([op == "MUL_MAT" and ns > large for (op, _), ns in zip(graph.keys, graph.base, strict=True)])
    on, off = round(spec.on_ms * MS), round(spec.off_ms * MS)
    slower = np.where(product, 1.0 if spec.apart else spec.factor, 1.0)
    length = int((graph.base * slower).astype(np.int64).sum())  # of a graph of the second one
    stretches: list[tuple[int, int]] = []  # in which it works
    now = START_NS + off
    for _ in range(spec.periods or 60):
        stretches.append((now, now + max(1, round(on / length)) * length))
        now = stretches[-1][1] + off
    begins, ends = (np.array(column) for column in zip(*stretches, strict=True))

    def meets(since: int, until: int) -> bool:
        at = np.searchsorted(ends, since, "right")
        return bool(at < len(begins) and begins[at] < until)

    execs: list[tuple[int, int, int]] = []
    calls: list[tuple[int, int, int, int, int]] = []
    away: list[tuple[int, int]] = []
    now = START_NS
    while len(execs) < spec.executions:
        if spec.apart and meets(now, now + 10 * MS):
            now += MS
            continue
        begun = now
        for node, base, is_product in zip(graph.node, graph.base, product, strict=True):
            beside = is_product and meets(now, now + 1)
            took = base * random.normal(1.0, spec.jitter) * (spec.factor if beside else 1.0)
            if beside and random.random() < spec.starved:
                away.append((now + 1000, now + 1000 + MS))
                took += MS
            calls.append((len(execs), int(node), FIRST, now, now + int(took)))
            now += int(took)
        execs.append((FIRST, begun, now))
        now += 100_000
    last = now
    for since, until in stretches:
        now = since
        while now < min(until, last):
            begun = now
            for node, base in zip(graphs[SECOND].node, (graph.base * slower).astype(np.int64), strict=True):
                calls.append((len(execs), int(node), SECOND, now, now + int(base)))
                now += int(base)
            execs.append((SECOND, begun, now))
    with Recording.create(str(path), overwrite=True) as recording:
        recording.set_meta("sched", "yes")
        recording.set_meta("llc_bytes", spec.llc_bytes)
        for number, (pid, described) in enumerate(graphs.items(), start=1):
            recording.append("process", {"pid": [pid], "exe": [f"/opt/engine-{pid}"]})
            recording.append("thread", {"pid": [pid], "tid": [pid], "comm": ["a"], "ith": [0]})
            name = "model.gguf" if spec.same_file else f"model-{pid}.gguf"
            recording.append("model", {"pid": [pid], "name": [name]})
            recording.append("graph", {"graph_id": [number], "pid": [pid], "nodes": [len(described.rows["op"])],
                                       "operators": [len(described.node)], "tokens": [1], "phase": ["decode"],
                                       "described": [True]})  # fmt: skip
            recording.append("graph_node", described.rows)
        pids, starts, ends = zip(*execs, strict=True)
        recording.append("graph_exec", {
            "exec_id": np.arange(len(execs)), "pid": pids, "tid": pids, "graph_id": [1 + (p == SECOND) for p in pids],
            "window_id": 0, "start_ns": starts, "end_ns": ends, "level": "op",
        })  # fmt: skip
        exec_id, node, tid, start, end = zip(*calls, strict=True)
        recording.append("op_exec", {"exec_id": exec_id, "node_index": node, "tid": tid, "ith": 0, "start_ns": start,
                                     "end_ns": end})  # fmt: skip
        recording.append("probe_window", {
            "window_id": [0], "level": ["op"], "start_ns": [START_NS], "end_ns": [last], "graphs": [len(execs)],
            "tokens": [len(execs)], "hits": [0], "losses": [0],
        })  # fmt: skip
        if away:
            since, until = zip(*away, strict=True)
            recording.append("thread_state", {"pid": FIRST, "tid": FIRST, "cpu": 0, "start_ns": since, "end_ns": until,
                                              "state": "runnable", "by_tid": SECOND, "by_comm": "a"})  # fmt: skip
        if spec.ceilings:
            what, dtype, threads, value = zip(*CEILINGS, strict=True)
            figures = [figure * spec.ceilings for figure in value]
            recording.append("ceiling", {"what": what, "dtype": dtype, "threads": threads, "value": figures,
                                         "low": figures, "high": figures, "source": "synthetic"})  # fmt: skip
    return Truth(float(graph.base[product].sum()))
