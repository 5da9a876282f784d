"""Arrays for a timeline: graph executions per process, operators per thread, windows. Viewers draw them as they are.

A timeline holds at most about `limit` operators: of a longer recording every n-th measured graph execution is kept
whole, and `every` says so. Times are integer nanoseconds since `origin_ns`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.store import Recording, read_sql

DEFAULT_LIMIT = 1_000_000
MAX_GRAPHS = 200_000
MAX_WINDOWS = 20_000
MAX_KINDS = 20_000  # more than that, and shapes are left out

THREAD_SQL = "SELECT pid, tid, any_value(coalesce(comm, '')) FROM thread GROUP BY pid, tid"
WINDOW_SQL = f"""
SELECT level, start_ns, coalesce(end_ns, start_ns) AS end_ns FROM probe_window ORDER BY start_ns LIMIT {MAX_WINDOWS}
"""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """What an operator of the timeline is."""

    op: str
    name: str
    block: str
    layer: int | None
    type: str
    shape: str


@dataclass(frozen=True, slots=True, eq=False)
class OperatorLane:
    """One thread's operators, sorted by start. Arrays of one length."""

    pid: int
    tid: int
    ith: int
    comm: str
    start_ns: np.ndarray  # int64
    dur_ns: np.ndarray  # int64
    compute_ns: np.ndarray  # int64, own work; -1 where not known (below thread level)
    kind: np.ndarray  # uint32, index into Timeline.kinds


@dataclass(frozen=True, slots=True, eq=False)
class GraphLane:
    """One process's graph executions, sorted by start. Arrays of one length."""

    pid: int
    start_ns: np.ndarray  # int64
    dur_ns: np.ndarray  # int64
    phase: np.ndarray  # uint8, index into Timeline.phases
    tokens: np.ndarray  # uint32


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Everything that can be drawn along the time axis."""

    origin_ns: int
    end_ns: int  # since origin_ns
    phases: tuple[str, ...]
    kinds: tuple[Kind, ...]
    graphs: tuple[GraphLane, ...]
    operators: tuple[OperatorLane, ...]
    window_level: tuple[str, ...]
    window_start_ns: np.ndarray
    window_end_ns: np.ndarray
    operators_total: int
    operators_shown: int
    every: int  # every n-th measured graph execution is shown
    graphs_total: int
    graphs_shown: int


def timeline(recording: Recording, limit: int = DEFAULT_LIMIT) -> Timeline:
    """The timeline of a recording, with about `limit` operators at most."""
    total = recording.rows("SELECT count(*) FROM op_exec")[0][0]
    graphs_total = recording.rows("SELECT count(*) FROM graph_exec")[0][0]
    every = max(1, math.ceil(total / limit))
    windows = recording.columns(WINDOW_SQL)
    graphs = recording.columns(read_sql("timeline_graphs.sql"), {"limit": MAX_GRAPHS})
    found = recording.columns(read_sql("timeline_operators.sql"), {"every": every})
    starts = [np.asarray(part["start_ns"]) for part in (graphs, windows, found)]
    ends = [np.asarray(part["end_ns"]) for part in (graphs, windows, found)]
    origin = min((int(part.min()) for part in starts if len(part)), default=0)
    end = max((int(part.max()) for part in ends if len(part)), default=0)
    phases = tuple(sorted({str(phase) for phase in graphs["phase"]}))
    kinds, kind_of = _kinds(recording, found)
    return Timeline(
        origin_ns=origin,
        end_ns=max(0, end - origin),
        phases=phases,
        kinds=kinds,
        graphs=_graph_lanes(graphs, phases, origin),
        operators=_operator_lanes(recording, found, kind_of, origin),
        window_level=tuple(str(level) for level in windows["level"]),
        window_start_ns=np.asarray(windows["start_ns"], dtype=np.int64) - origin,
        window_end_ns=np.asarray(windows["end_ns"], dtype=np.int64) - origin,
        operators_total=total,
        operators_shown=len(found["start_ns"]),
        every=every,
        graphs_total=graphs_total,
        graphs_shown=len(graphs["start_ns"]),
    )


def _kinds(recording: Recording, found: dict[str, np.ndarray]) -> tuple[tuple[Kind, ...], np.ndarray]:
    """The distinct kinds of node among `found` (graphs repeat the same tensors), and the kind of every operator."""
    graph = np.asarray(found["graph_id"], dtype=np.int64)
    node = np.asarray(found["node_index"], dtype=np.int64)
    if len(graph) == 0:
        return (), np.zeros(0, dtype=np.uint32)
    graphs, position = np.unique(graph, return_inverse=True)
    asked: dict[str, object] = {"graphs": graphs.tolist(), "shapes": True}
    nodes = recording.columns(read_sql("timeline_nodes.sql"), asked)
    if len(nodes["kind"]) and int(nodes["kind"].max()) >= MAX_KINDS:  # shapes that change with every prompt
        nodes = recording.columns(read_sql("timeline_nodes.sql"), asked | {"shapes": False})
    numbers, first = np.unique(np.asarray(nodes["kind"], dtype=np.int64), return_index=True)
    kinds = [Kind("", "(not described)", "", None, "", "")]  # number 0; the query counts from 1
    for row in first[numbers > 0]:
        layer = int(nodes["layer"][row])
        op, name, block, kind, shape = (str(nodes[what][row]) for what in ("op", "name", "block", "type", "shape"))
        kinds.append(Kind(op, name, block, None if layer < 0 else layer, kind, shape))
    table = np.zeros((len(graphs), int(node.max()) + 1), dtype=np.uint32)
    inside = np.asarray(nodes["node_index"]) < table.shape[1]
    row_of = np.searchsorted(graphs, np.asarray(nodes["graph_id"], dtype=np.int64)[inside])
    table[row_of, np.asarray(nodes["node_index"])[inside]] = np.asarray(nodes["kind"])[inside]
    return tuple(kinds), table[position, node]


def _graph_lanes(graphs: dict[str, np.ndarray], phases: tuple[str, ...], origin: int) -> tuple[GraphLane, ...]:
    pid = np.asarray(graphs["pid"])
    start = np.asarray(graphs["start_ns"], dtype=np.int64) - origin
    duration = np.asarray(graphs["end_ns"], dtype=np.int64) - origin - start
    names = np.asarray([str(phase) for phase in graphs["phase"]], dtype=object)
    phase = np.zeros(len(names), dtype=np.uint8)
    for number, name in enumerate(phases):
        phase[names == name] = number
    tokens = np.asarray(graphs["tokens"]).clip(0, 2**32 - 1).astype(np.uint32)
    return tuple(
        GraphLane(int(one), start[mine], duration[mine].clip(0), phase[mine], tokens[mine])
        for one in np.unique(pid)
        for mine in [pid == one]
    )


def _operator_lanes(
    recording: Recording, found: dict[str, np.ndarray], kind: np.ndarray, origin: int
) -> tuple[OperatorLane, ...]:
    if len(kind) == 0:
        return ()
    names = {(pid, tid): str(comm) for pid, tid, comm in recording.rows(THREAD_SQL)}
    pid, tid, ith = (np.asarray(found[name], dtype=np.int64) for name in ("pid", "tid", "ith"))
    # The query sorts by process and thread: lanes are runs.
    changes = (np.diff(pid) != 0) | (np.diff(tid) != 0) | (np.diff(ith) != 0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(kind)]
    start = np.asarray(found["start_ns"], dtype=np.int64) - origin
    duration = (np.asarray(found["end_ns"], dtype=np.int64) - origin - start).clip(0)
    done = found["compute_end_ns"]
    compute = np.ma.filled(np.ma.asarray(done, dtype=np.int64) - origin - start, -1)
    return tuple(
        OperatorLane(
            pid=int(pid[low]),
            tid=int(tid[low]),
            ith=int(ith[low]),
            comm=names.get((int(pid[low]), int(tid[low])), ""),
            start_ns=start[low:high],
            dur_ns=duration[low:high],
            compute_ns=compute[low:high],
            kind=kind[low:high],
        )
        for low, high in itertools.pairwise(edges)
    )
