"""Decode: raw events of the rings → rows of graph_exec, op_exec and request. Pure numpy, bulk, no per-event Python.

A graph execution is a begin and an end on one thread. An operator belongs to the execution in whose time it started;
it ends where the next operator of the same thread starts, or with the graph. Operators are kept only of executions
that lie wholly inside a window of their level: windows are cut at graph boundaries here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from flowprof.profiler import ring
from flowprof.profiler.graphs import EMPTY_NODE, KnownGraph
from numpy.typing import NDArray

Events = NDArray[np.void]
MAX_WAITING = 4_000_000  # events of graphs that have not ended


@dataclass(slots=True)
class Window:
    """A probe window; end_ns is None while it is open. drops: events lost in it so far."""

    window_id: int
    level: str
    start_ns: int
    end_ns: int | None = None
    graphs: int = 0
    tokens: int = 0
    hits: int = 0
    drops: int = 0
    busy_ns: int = 0


@dataclass(slots=True)
class Decoded:
    """Rows for the store, by table, and what could not be placed."""

    graph_exec: dict[str, NDArray[np.generic] | list[object]] = field(default_factory=dict)
    op_exec: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    thread_index: dict[int, int] = field(default_factory=dict)  # tid → ith
    undescribed: int = 0
    unmatched: int = 0
    strangers: int = 0  # of them: in the time of a described graph that has no such node
    incomplete: int = 0
    graphs: int = 0
    tokens: int = 0
    outputs: int = 0


class Decoder:
    """Decodes one process's events; keeps those of graphs that have not ended for the next call."""

    def __init__(self, find: Callable[[int], KnownGraph], next_exec: Callable[[int], int]) -> None:
        self._find = find
        self._next_exec = next_exec  # reserves n numbers, returns the first
        self.waiting = np.empty(0, ring.EVENT)
        self._most_operators: dict[int, int] = {}

    def horizon(self) -> int:
        """Everything that started before this time is decoded (ns)."""
        return int(self.waiting["at_ns"].min()) if len(self.waiting) else np.iinfo(np.int64).max

    def decode(self, events: Events, windows: Sequence[Window], final: bool = False) -> Decoded:
        """Decode everything up to the start of the oldest graph that still runs (all of it when `final`).

        events: any order, dtype ring.EVENT, graph and operator kinds of one process. windows: by start, gapless.
        """
        events = np.concatenate([self.waiting, events])
        events = events[np.argsort(events["at_ns"], kind="stable")]
        execs, open_since = _executions(events)
        # An operator that straddles "now" is complete only with its graph; so wait for the oldest open graph, and for
        # stragglers of the last ended one: they were published before its end.
        final = final or len(events) > MAX_WAITING  # a graph whose end was lost must not hold everything back
        horizon = np.iinfo(np.int64).max if final or open_since is None else open_since
        execs = [e for e in execs if e[0] < horizon]
        starts = np.where(events["kind"] == ring.OP_WORK, events["b"].astype(np.int64), events["at_ns"])
        self.waiting = events[starts >= horizon]
        if final:
            execs += [(start, None, tid, key) for start, tid, key in _unended(events)]
            execs.sort(key=lambda e: e[0])
        out = Decoded()
        if execs:
            self._rows(events[starts < horizon], starts[starts < horizon], execs, windows, out)
        else:
            settled = events[starts < horizon]
            out.unmatched = int(np.isin(settled["kind"], (ring.OP, ring.OP_WORK)).sum())
        return out

    def _rows(
        self,
        events: Events,
        starts: NDArray[np.int64],
        execs: list[tuple[int, int | None, int, int]],
        windows: Sequence[Window],
        out: Decoded,
    ) -> None:
        count = len(execs)
        first = self._next_exec(count)
        graphs = [self._find(key) for _, _, _, key in execs]
        begin = np.array([e[0] for e in execs], np.int64)
        end = np.array([-1 if e[1] is None else e[1] for e in execs], np.int64)
        tid = np.array([e[2] for e in execs], np.int64)
        window = np.clip(np.searchsorted([w.start_ns for w in windows], begin, "right") - 1, 0, len(windows) - 1)
        levels = np.array([self._level(windows, w, b, e) for w, b, e in zip(window, begin, end, strict=True)], object)
        for number, graph, e in zip(window, graphs, end, strict=True):
            tokens = graph.tokens or 0
            windows[number].graphs += 1
            windows[number].tokens += tokens
            out.graphs += 1
            out.tokens += tokens
            out.outputs += graph.outputs or 0
            out.undescribed += not graph.described and e >= 0
        for number, b, e in zip(window, begin, end, strict=True):
            windows[number].busy_ns += int(e - b) if e >= 0 else 0

        is_op = np.isin(events["kind"], (ring.OP, ring.OP_WORK))
        ops, op_starts = events[is_op], starts[is_op]
        owner = np.searchsorted(begin, op_starts, "right") - 1
        inside = (owner >= 0) & (op_starts <= np.where(end < 0, begin, end)[np.clip(owner, 0, None)])
        if count > 1 and (begin[1:] < end[:-1]).any():
            # Two graphs of one process at a time: only the thread that began a graph is sure to work on it.
            inside &= ops["tid"] == tid[np.clip(owner, 0, None)]
        out.unmatched += int((~inside).sum())
        deep = inside & np.isin(levels[np.clip(owner, 0, None)], ("op", "thread"))
        ours = ops[deep], op_starts[deep], owner[deep]
        self._operators(*ours, begin, end, graphs, first, windows, window, levels, out)
        out.graph_exec = {
            "exec_id": np.arange(first, first + count, dtype=np.int64),
            "tid": tid.astype(np.int32),
            "graph_id": np.array([g.graph_id for g in graphs], np.int32),
            "window_id": np.array([windows[w].window_id for w in window], np.int32),
            "start_ns": begin,
            "end_ns": np.ma.masked_array(end, end < 0),
            "level": levels.tolist(),
        }

    @staticmethod
    def _level(windows: Sequence[Window], number: int, begin: int, end: int) -> str:
        """The level that covers an execution wholly. Windows of one level that touch are one: nothing was detached."""
        window = last = windows[number]
        for following in windows[number + 1 :]:
            if last.end_ns is None or end <= last.end_ns:
                break
            if following.level != window.level or following.start_ns != last.end_ns:
                break
            last = following
        whole = end >= 0 and begin >= window.start_ns and (last.end_ns is None or end <= last.end_ns)
        return window.level if whole else "token"

    def _operators(
        self,
        ops: Events,
        start: NDArray[np.int64],
        owner: NDArray[np.int64],
        begin: NDArray[np.int64],
        end: NDArray[np.int64],
        graphs: list[KnownGraph],
        first: int,
        windows: Sequence[Window],
        window: NDArray[np.int64],
        levels: NDArray[np.object_],
        out: Decoded,
    ) -> None:
        if not len(ops):
            return
        # One sequence per execution and thread index. Builds of 2023 have no fixed first thread: whichever is the last
        # to finish a node takes index 0, prepares the next one and joins the others.
        ith = ops["ith"].astype(np.int64)
        work_end = np.where(ops["kind"] == ring.OP_WORK, ops["at_ns"], -1)
        # Later barriers of an operator (in matrix products) move its end: the last per (thread, start) counts.
        order = np.lexsort((work_end, start, ith, owner))
        ops, start, owner, ith, work_end = ops[order], start[order], owner[order], ith[order], work_end[order]
        same_next = (ith[1:] == ith[:-1]) & (owner[1:] == owner[:-1]) & (start[1:] == start[:-1])
        keep = np.append(~same_next, True)
        # Nested operator functions, and the stages of a node in old builds, report one node several times in a row.
        nested = (ith[1:] == ith[:-1]) & (owner[1:] == owner[:-1]) & (ops["a"][1:] == ops["a"][:-1]) & ~same_next
        keep[1:] &= ~nested
        ops, start, owner, ith, work_end = ops[keep], start[keep], owner[keep], ith[keep], work_end[keep]
        node = np.full(len(ops), -1, np.int32)
        for graph_id in {graphs[o].graph_id for o in np.unique(owner)}:
            members = [i for i, g in enumerate(graphs) if g.graph_id == graph_id]
            graph = graphs[members[0]]
            mine = np.isin(owner, members)
            if not graph.described:
                continue
            at = np.clip(np.searchsorted(graph.addresses, ops["a"][mine]), 0, len(graph.addresses) - 1)
            hit = graph.addresses[at] == ops["a"][mine]
            node[mine] = np.where(hit, graph.nodes[at], -1)
        real = node != EMPTY_NODE
        ops, start, owner, ith, work_end, node = (x[real] for x in (ops, start, owner, ith, work_end, node))
        follows = np.append((ith[1:] == ith[:-1]) & (owner[1:] == owner[:-1]), False)[: len(ops)]
        finish = np.where(follows, np.append(start[1:], 0)[: len(ops)], end[owner])
        placed = node >= 0
        unknown = ~placed & np.array([graphs[o].described for o in owner], bool)
        out.strangers += int(unknown.sum())
        out.unmatched += int(unknown.sum())
        tid = ops["tid"].astype(np.int64)
        self._demote_incomplete(owner[placed & (ith == 0)], owner, graphs, windows, window, levels, out)
        placed &= levels[owner] != "token"
        # The barrier can be left before the next operator starts, never after: an own-work end past the operator is
        # the sign of a barrier that belongs to the next one.
        work_end = np.where(work_end > finish, finish, work_end)
        out.op_exec = {
            "exec_id": (first + owner[placed]).astype(np.int64),
            "node_index": node[placed],
            "tid": tid[placed].astype(np.int32),
            "ith": ith[placed].astype(np.int16),
            "start_ns": start[placed],
            "compute_end_ns": np.ma.masked_array(work_end[placed], work_end[placed] < 0),
            "end_ns": finish[placed],
        }
        firsts = np.unique(tid, return_index=True)
        out.thread_index = {int(t): int(ith[i]) for t, i in zip(*firsts, strict=True)}

    def _demote_incomplete(
        self,
        main: NDArray[np.int64],
        owner: NDArray[np.int64],
        graphs: list[KnownGraph],
        windows: Sequence[Window],
        window: NDArray[np.int64],
        levels: NDArray[np.object_],
        out: Decoded,
    ) -> None:
        """Executions with lost operators must not count as measured: their gaps would be booked on the wrong ones."""
        counts = np.bincount(main, minlength=len(graphs))
        for i in np.flatnonzero(levels != "token"):
            graph = graphs[i]
            most = max(self._most_operators.get(graph.graph_id, 0), int(counts[i]))
            self._most_operators[graph.graph_id] = most
            if counts[i] < most and (windows[window[i]].drops or counts[i] < 0.98 * most):
                levels[i] = "token"
                out.incomplete += 1


def _executions(events: Events) -> tuple[list[tuple[int, int | None, int, int]], int | None]:
    """(start, end, tid, key) of every graph that ended, by start; and the start of the oldest that still runs."""
    marks = events[np.isin(events["kind"], (ring.GRAPH_BEGIN, ring.GRAPH_END))]
    running: dict[int, tuple[int, int]] = {}
    ended: list[tuple[int, int | None, int, int]] = []
    for kind, at, tid, key in zip(
        marks["kind"].tolist(), marks["at_ns"].tolist(), marks["tid"].tolist(), marks["b"].tolist(), strict=True
    ):
        if kind == ring.GRAPH_BEGIN:
            running[tid] = (at, key)
        elif tid in running:
            start, begun = running.pop(tid)
            ended.append((start, at, tid, begun))
    ended.sort(key=lambda e: e[0])
    return ended, min((start for start, _ in running.values()), default=None)


def _unended(events: Events) -> list[tuple[int, int, int]]:
    marks = events[np.isin(events["kind"], (ring.GRAPH_BEGIN, ring.GRAPH_END))]
    running: dict[int, tuple[int, int]] = {}
    for kind, at, tid, key in zip(
        marks["kind"].tolist(), marks["at_ns"].tolist(), marks["tid"].tolist(), marks["b"].tolist(), strict=True
    ):
        if kind == ring.GRAPH_BEGIN:
            running[tid] = (at, key)
        else:
            running.pop(tid, None)
    return [(start, tid, key) for tid, (start, key) in running.items()]
