"""Arrays for a timeline: graph executions per process, operators and stretches off the processor per thread, windows;
calls and GPU work are in timeline_calls.py.
Viewers draw them as they are.

A timeline holds at most about `limit` operators: of a longer recording every n-th measured graph execution is kept
whole, and `every` says so. Of the stretches the longest MAX_STATES are kept. Times are integer nanoseconds since
`origin_ns`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.timeline_calls import CallTimeline, call_timeline

DEFAULT_LIMIT = 1_000_000
MAX_GRAPHS = 200_000
MAX_WINDOWS = 20_000
MAX_KINDS = 20_000  # more than that, and shapes are left out
MAX_STATES = 200_000
STATES = ("runnable", "sleeping", "fault", "disk", "stopped")

FIRST_CALL_SQL = """
SELECT min(start_ns) FROM (
    SELECT start_ns FROM api_call
    WHERE kind IN ('operator', 'runtime', 'driver', 'nccl', 'collective') AND end_ns IS NOT NULL
    UNION ALL SELECT start_ns FROM gpu_slice WHERE kind NOT IN ('annotation', 'sync') AND end_ns IS NOT NULL
)
"""
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
class ThreadLane:
    """Stretches of one thread, sorted by start. Arrays of one length."""

    pid: int
    tid: int
    ith: int
    comm: str
    start_ns: np.ndarray  # int64
    dur_ns: np.ndarray  # int64


@dataclass(frozen=True, slots=True, eq=False)
class OperatorLane(ThreadLane):
    """One thread's operators."""

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
class StateLane(ThreadLane):
    """When and why one thread of a pool was off the processor."""

    state: np.ndarray  # uint8, index into STATES
    by: np.ndarray  # uint32, index into Timeline.others


@dataclass(frozen=True, slots=True)
class Other:
    """Who ran instead of a thread, or woke it."""

    tid: int | None  # 0: an interrupt; None: not known
    comm: str
    ith: int | None  # when it is of the pool itself


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Everything that can be drawn along the time axis."""

    origin_ns: int
    end_ns: int  # since origin_ns
    phases: tuple[str, ...]
    kinds: tuple[Kind, ...]
    graphs: tuple[GraphLane, ...]
    operators: tuple[OperatorLane, ...]
    states: tuple[StateLane, ...]
    others: tuple[Other, ...]
    calls: CallTimeline
    window_level: tuple[str, ...]
    window_start_ns: np.ndarray
    window_end_ns: np.ndarray
    operators_total: int
    operators_shown: int
    every: int  # every n-th measured graph execution is shown
    graphs_total: int
    graphs_shown: int
    states_total: int
    states_shown: int


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
    called = recording.rows(FIRST_CALL_SQL)[0][0]
    firsts = [int(part.min()) for part in starts if len(part)] + ([int(called)] if called is not None else [])
    origin = min(firsts, default=0)
    calls = call_timeline(recording, limit, origin)
    end = max((int(part.max()) for part in ends if len(part)), default=0)
    phases = tuple(sorted({str(phase) for phase in graphs["phase"]}))
    known, kind_of = kinds(recording, found)
    asked = {"from": origin, "to": end, "limit": MAX_STATES}
    away = recording.columns(read_sql("timeline_states.sql"), asked)
    others, by = _others(away)
    return Timeline(
        origin_ns=origin,
        end_ns=max(0, end - origin, calls.end_ns),
        phases=phases,
        kinds=known,
        graphs=_graph_lanes(graphs, phases, origin),
        operators=operator_lanes(recording, found, kind_of, origin),
        states=_state_lanes(recording, away, by, origin),
        others=others,
        calls=calls,
        window_level=tuple(str(level) for level in windows["level"]),
        window_start_ns=np.asarray(windows["start_ns"], dtype=np.int64) - origin,
        window_end_ns=np.asarray(windows["end_ns"], dtype=np.int64) - origin,
        operators_total=total,
        operators_shown=len(found["start_ns"]),
        every=every,
        graphs_total=graphs_total,
        graphs_shown=len(graphs["start_ns"]),
        states_total=int(away["total"][0]) if len(away["total"]) else 0,
        states_shown=len(away["start_ns"]),
    )


def kinds(recording: Recording, found: dict[str, np.ndarray]) -> tuple[tuple[Kind, ...], np.ndarray]:
    """The distinct kinds of node among `found` (graphs repeat the same tensors), and the kind of every operator.

    found: columns of timeline_operators.sql.
    """
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
    named = [Kind("", "(not described)", "", None, "", "")]  # number 0; the query counts from 1
    for row in first[numbers > 0]:
        layer = int(nodes["layer"][row])
        op, name, block, kind, shape = (str(nodes[what][row]) for what in ("op", "name", "block", "type", "shape"))
        named.append(Kind(op, name, block, None if layer < 0 else layer, kind, shape))
    table = np.zeros((len(graphs), int(node.max()) + 1), dtype=np.uint32)
    inside = np.asarray(nodes["node_index"]) < table.shape[1]
    row_of = np.searchsorted(graphs, np.asarray(nodes["graph_id"], dtype=np.int64)[inside])
    table[row_of, np.asarray(nodes["node_index"])[inside]] = np.asarray(nodes["kind"])[inside]
    return tuple(named), table[position, node]


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


def operator_lanes(
    recording: Recording, found: dict[str, np.ndarray], kind: np.ndarray, origin: int
) -> tuple[OperatorLane, ...]:
    """A lane for each thread among `found`; times since `origin`."""
    done = np.ma.asarray(found["compute_end_ns"], dtype=np.int64)
    compute = np.ma.filled(done - np.asarray(found["start_ns"], dtype=np.int64), -1)
    lanes = _thread_lanes(recording, found, origin)
    return tuple(OperatorLane(*lane, compute[part], kind[part]) for lane, part in lanes)


def _state_lanes(
    recording: Recording, away: dict[str, np.ndarray], by: np.ndarray, origin: int
) -> tuple[StateLane, ...]:
    state = np.asarray(away["state"], dtype=np.int64).astype(np.uint8)
    return tuple(StateLane(*lane, state[part], by[part]) for lane, part in _thread_lanes(recording, away, origin))


def _thread_lanes(
    recording: Recording, found: dict[str, np.ndarray], origin: int
) -> Iterator[tuple[tuple[int, int, int, str, np.ndarray, np.ndarray], slice]]:
    """The fields of every ThreadLane, and its rows. The query sorted by process and thread: lanes are runs."""
    names = {(pid, tid): str(comm) for pid, tid, comm in recording.rows(THREAD_SQL)}
    pid, tid, ith = (np.asarray(found[name], dtype=np.int64) for name in ("pid", "tid", "ith"))
    start = np.asarray(found["start_ns"], dtype=np.int64) - origin
    duration = (np.asarray(found["end_ns"], dtype=np.int64) - origin - start).clip(0)
    changes = np.flatnonzero((np.diff(pid) != 0) | (np.diff(tid) != 0) | (np.diff(ith) != 0)) + 1
    for low, high in itertools.pairwise([0, *changes.tolist(), len(pid)]):
        if low < high:
            process, thread = int(pid[low]), int(tid[low])
            comm = names.get((process, thread), "")
            yield (process, thread, int(ith[low]), comm, start[low:high], duration[low:high]), slice(low, high)


def _others(away: dict[str, np.ndarray]) -> tuple[tuple[Other, ...], np.ndarray]:
    """The distinct threads that stood in the way, and the number of every stretch's."""
    keys: dict[tuple[int, str, int], int] = {}
    by = np.zeros(len(away["by_tid"]), dtype=np.uint32)
    for row, key in enumerate(
        zip(away["by_tid"].tolist(), away["by_comm"].tolist(), away["by_ith"].tolist(), strict=True)
    ):
        by[row] = keys.setdefault(key, len(keys))
    others = (Other(None if tid < 0 else tid, str(comm), None if ith < 0 else ith) for tid, comm, ith in keys)
    return tuple(others), by
