"""What cause rules get, made by hand: rows and phases as a diff has them, and recordings that hold just a few facts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import (
    Comparability,
    Part,
    PartShift,
    PhaseShift,
    ResourceShift,
    Row,
    VariableShift,
)
from flowprof.profiler.diff.side import Pair, Side
from flowprof.profiler.diff.steps.steps import Group, GroupFacts, Steps
from flowprof.profiler.store import Recording

MS = 1e6
PID, TID = 77, 100
OWN_THREAD = "engine"  # of the pool
Pairing = tuple[float | None, float | None]


@dataclass(frozen=True)
class Facts:
    """One recording. `stalls`: (who ran instead, "" nobody; ms) of the pool's first thread in its graph, of 1 s."""

    threads: int = 2
    cpus: str = "0-1"
    meta: dict[str, str] = field(default_factory=dict)
    build: str | None = "aaaa"
    version: str = "1"
    instructions: str | None = None  # that the build uses
    neighbours: dict[str, float] = field(default_factory=dict)  # name → processors used
    stalls: tuple[tuple[str, float], ...] = ()
    quota: tuple[int | None, ...] | None = None  # µs of processor time, of a period; periods, used up in; ms held up
    faults: int = 0
    file: str | None = "/models/m.gguf"  # of the faults
    counters: tuple[float, ...] | None = None  # cycles, instructions a call of ffn_up; and ns on a processor
    context: int = 256
    tokens: tuple[int, ...] = (1,) * 100  # of each graph, in the steps


def row(
    name: str = "MUL_MAT ffn_up",
    a: float | None = 10.0,
    b: float | None = 10.0,
    *,
    kind: str = "operator",
    phase: str = "decode",
    block: str = "ffn",
    op: str = "MUL_MAT",
    shape: str = "768x2048 q8_0",
    b_shape: str = "",
    significant: bool | None = None,
    parts: dict[Part, Pairing] | None = None,
    flops: Pairing = (None, None),
    bytes: Pairing = (None, None),
    matched: str = "",
    tail: tuple[float, float] | None = None,
) -> Row:
    """a, b and parts in ms per token; significant when they differ, unless told."""
    delta = ((b or 0.0) - (a or 0.0)) * MS
    ns = [None if value is None else value * MS for value in (a, b)]
    shifts = tuple(
        PartShift(part, *(None if value is None else value * MS for value in pair))
        for part, pair in (parts or {}).items()
    )
    return Row(
        kind=kind, name=name, phase=phase, block=block, op=op, shape=shape, b_shape=b_shape, a_ns_per_token=ns[0],
        b_ns_per_token=ns[1], delta_ns_per_token=delta, ci95=None, shift_ns_per_token=delta, shift_ci95=None, q=0.01,
        noise_ns_per_token=0.0, significant=bool(delta) if significant is None else significant,
        a_tail_ns=None if tail is None else tail[0] * MS, b_tail_ns=None if tail is None else tail[1] * MS, tail_q=None,
        tail_significant=tail is not None, layers=(), matched=matched, parts=shifts, flops=flops, bytes=bytes,
        calls_per_token=(1.0, 1.0),
    )  # fmt: skip


def shift_of(rows: Sequence[Row], phase: str, significant: bool = True) -> PhaseShift:
    """The phase whose rows these are."""
    mine = [one for one in rows if one.phase == phase]
    a, b = (sum(getattr(one, name) or 0.0 for one in mine) for name in ("a_ns_per_token", "b_ns_per_token"))
    return PhaseShift(
        phase, 100, 200, a, b, b - a, (b - a, b - a), 0.01, 0.0, significant and a != b, None, None, None, False
    )


class Maker:
    """`compared(rows, a=Facts(), b=Facts())`. Recordings of the same facts are made once, and closed with the stack."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._recordings: dict[str, Recording] = {}

    def __call__(
        self,
        rows: Sequence[Row],
        a: Facts | Recording = Facts(),
        b: Facts | Recording = Facts(),
        *,
        resources: Sequence[ResourceShift] = (),
        variables: Sequence[VariableShift] = (),
        significant: bool = True,
        tails: bool = False,
    ) -> Compared:
        phases = tuple(
            replace(shift_of(rows, phase, significant), tail_significant=tails)
            for phase in dict.fromkeys(one.phase for one in rows)
        )
        sides = [one if isinstance(one, Recording) else self._record(one) for one in (a, b)]
        steps = [
            () if isinstance(one, Recording) else tuple(_steps(phase.phase, rows, one, first) for phase in phases)
            for one, first in ((a, True), (b, False))
        ]
        return Compared(
            pair=Pair(Side("normal", (sides[0],)), Side("buggy", (sides[1],))),
            a_steps=(steps[0],), b_steps=(steps[1],),
            comparability=Comparability("comparable", 1.0, (), ""),
            phases=phases, rows=tuple(rows), resources=tuple(resources), variables=tuple(variables),
        )  # fmt: skip

    def _record(self, facts: Facts) -> Recording:
        if repr(facts) not in self._recordings:
            path = self._folder / f"{len(self._recordings)}.duckdb"
            with Recording.create(str(path)) as recording:
                _write(recording, facts)
            self._recordings[repr(facts)] = self._stack.enter_context(Recording.open(str(path)))
        return self._recordings[repr(facts)]


def _write(recording: Recording, facts: Facts) -> None:
    start, second = 1_000_000_000, 1_000_000_000
    for key, value in {
        "started_ns": str(start),
        "stopped_ns": str(start + second),
        "sched": "yes",
        **facts.meta,
    }.items():
        recording.set_meta(key, value)
    recording.append(
        "probe_window",
        {
            "window_id": [1],
            "level": ["thread"],
            "start_ns": [start],
            "end_ns": [start + second],
            "graphs": [1],
            "tokens": [100],
            "hits": [0],
            "losses": [0],
        },
    )
    recording.append("process", {"pid": [PID], "cpus_allowed": [8]})
    recording.append(
        "module",
        {
            "module_id": [1],
            "pid": [PID],
            "path": ["/lib/libggml.so"],
            "build_id": [facts.build],
            "engine": ["ggml"],
            "engine_version": [facts.version],
            "instructions": [facts.instructions],
        },
    )
    pool = list(range(facts.threads))
    recording.append(
        "thread", {"pid": PID, "tid": [TID + ith for ith in pool], "comm": OWN_THREAD, "ith": pool, "cpus": facts.cpus}
    )
    for phase, graph_id in (("decode", 1), ("prefill", 2)):
        recording.append(
            "graph",
            {
                "graph_id": [graph_id],
                "pid": PID,
                "nodes": [1],
                "operators": [1],
                "tokens": [100],
                "phase": [phase],
                "described": [True],
            },
        )
        recording.append(
            "graph_node",
            {
                "graph_id": graph_id,
                "node_index": [0],
                "leaf": [False],
                "op": ["MUL_MAT"],
                "name": ["ffn_up-0"],
                "type": ["f32"],
                "ne": [[1, 1, 1, 1]],
                "size_bytes": [4],
                "data_bytes": [4],
                "sources": [[]],
                "executes": [True],
            },
        )
        begin = start + (graph_id - 1) * second
        recording.append(
            "graph_exec",
            {
                "exec_id": [graph_id],
                "pid": PID,
                "tid": TID,
                "graph_id": [graph_id],
                "window_id": [1],
                "start_ns": [begin],
                "end_ns": [begin + second],
                "level": ["thread"],
            },
        )
        recording.append(
            "op_exec",
            {
                "exec_id": graph_id,
                "node_index": 0,
                "tid": [TID + ith for ith in pool],
                "ith": pool,
                "start_ns": begin,
                "compute_end_ns": begin + second // 2,
                "end_ns": begin + second,
            },
        )
        if facts.counters is not None:
            cycles, instructions, *clock = facts.counters
            recording.append(
                "op_counter",
                {
                    "graph_id": [graph_id],
                    "node_index": [0],
                    "ith": [0],
                    "level": ["thread"],
                    "calls": [10],
                    "cycles": [int(cycles * 10)],
                    "instructions": [int(instructions * 10)],
                    "task_clock_ns": [int(one * 10) for one in clock] or [None],
                },
            )
    at = start
    for number, (who, ms) in enumerate(facts.stalls):
        end = at + round(ms * MS)
        recording.append(
            "thread_state",
            {
                "pid": [PID],
                "tid": [TID],
                "cpu": [0],
                "start_ns": [at],
                "end_ns": [end],
                "state": ["runnable"],
                "by_tid": [TID + 1 if who == OWN_THREAD else 500 + number if who else 0],
                "by_comm": [who],
            },
        )
        at = end
    if facts.quota is not None:
        *counts, ms = facts.quota
        names = ("quota_us", "period_us", "nr_periods", "nr_throttled", "throttled_ns")
        told = {
            name: value for name, value in zip(names, (*counts, (ms or 0) * 10**6), strict=True) if value is not None
        }
        recording.append("counter", {"pid": PID, "tid": 0, "name": list(told), "value": list(told.values())})
    if facts.faults:
        recording.append(
            "page_fault",
            {
                "pid": PID,
                "tid": TID,
                "at_ns": list(range(start, start + facts.faults)),
                "address": 0,
                "file": [facts.file] * facts.faults,
            },
        )
    if facts.neighbours:
        recording.append(
            "neighbour",
            {
                "pid": list(range(900, 900 + len(facts.neighbours))),
                "comm": list(facts.neighbours),
                "cpu_ns": [int(used * second) for used in facts.neighbours.values()],
                "cpus": "0-1",
            },
        )


def _steps(phase: str, rows: Sequence[Row], facts: Facts, first: bool) -> Steps:
    """The groups of one side's rows; those of attention over the cache know its rows."""
    mine = [
        one for one in rows if one.phase == phase and (one.a_ns_per_token if first else one.b_ns_per_token) is not None
    ]
    groups = tuple(
        Group(one.kind, phase, one.block, one.op, one.name, one.shape if first else one.b_shape or one.shape)
        for one in mine
    )
    known = tuple(GroupFacts(context=float(facts.context) if "heads" in one.shape else None) for one in mine)
    tokens = np.array(facts.tokens, np.int64)
    empty = np.zeros(0, np.int64)
    return Steps(
        phase,
        empty,
        empty,
        groups,
        np.zeros((0, len(groups))),
        known,
        {},
        np.arange(len(tokens)),
        tokens,
        np.ones(len(tokens)),
    )
