"""Decode: raw events of the rings → rows of graph_exec, op_exec and request. Pure numpy, bulk, no per-event Python.

A graph execution is a begin and an end on one thread. An operator belongs to the execution in whose time it started;
it ends where the next operator of the same thread starts, or with the graph. Operators are kept only of executions
that lie wholly inside a window of their level: windows are cut at graph boundaries here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.ma  # np.unique would import it beside the running target: 35 ms
from flowprof.profiler.ggml.graphs import EMPTY_NODE, KnownGraph
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.record.count_rows import count_rows
from flowprof.profiler.record.expert_rows import count_ids, expert_rows
from numpy.typing import NDArray

Events = NDArray[np.void]
_Execution = tuple[int, int | None, int, int]  # start, end (None: not seen), thread, the graph's key
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
    drops_before: int = 0  # lost since the start when it was opened
    busy_ns: int = 0  # in graphs: of a deep window also while its probes were placed and taken off
    steps: int = 0  # decode steps of one token
    steps_ns: int = 0
    switch_steps: int = 0  # those that ran while its probes were placed or taken off
    switch_ns: int = 0
    recorder_ns: int = 0  # processor time of the recorder, from the window before to the one behind
    displaced_ns: int = 0  # of it, what a target did without


@dataclass(slots=True)
class Decoded:
    """Rows for the store, by table, and what could not be placed."""

    graph_exec: dict[str, NDArray[np.generic] | list[object]] = field(default_factory=dict)
    op_exec: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    expert_use: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    op_counter: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    thread_index: dict[int, int] = field(default_factory=dict)  # tid → ith
    undescribed: int = 0
    unmatched: int = 0
    strangers: int = 0  # of them: in the time of a described graph that has no such node
    incomplete: int = 0
    lost_ids: int = 0  # of experts: the operator that they belong to is not there, or they could not be read
    graphs: int = 0
    tokens: int = 0
    outputs: int = 0


@dataclass(slots=True)
class _Visits:
    """Operator events as columns: a thread starts a node. An event is 64 bytes, of which few are needed again."""

    node: NDArray[np.uint64]
    start: NDArray[np.int64]
    work_end: NDArray[np.int64]  # -1: not reported
    tid: NDArray[np.int32]
    ith: NDArray[np.int16]
    owner: NDArray[np.int64]  # index of the execution

    def of(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> _Visits:
        """Some of them, or another order."""
        if which.dtype == np.bool_ and which.all():
            return self
        return _Visits(
            self.node[which], self.start[which], self.work_end[which], self.tid[which], self.ith[which],
            self.owner[which],
        )  # fmt: skip

    def joined(self) -> NDArray[np.bool_]:
        """Of every one but the last: whether the next belongs to the same thread of the same execution."""
        one: NDArray[np.bool_] = (self.ith[1:] == self.ith[:-1]) & (self.owner[1:] == self.owner[:-1])
        return one


def _visits(events: Events, kind: NDArray[np.uint16], starts: NDArray[np.int64], which: NDArray[np.int64]) -> _Visits:
    at = events["at_ns"][which]
    return _Visits(
        events["a"][which], starts[which], np.where(kind[which] == ring.OP_WORK, at, -1), events["tid"][which],
        events["ith"][which].astype(np.int16), np.zeros(len(which), np.int64),
    )  # fmt: skip


class Decoder:
    """Decodes one process's events; keeps those of graphs that have not ended for the next call."""

    def __init__(self, find: Callable[[int], KnownGraph], next_exec: Callable[[int], int]) -> None:
        self._find = find
        self._next_exec = next_exec  # reserves n numbers, returns the first
        self.waiting = np.empty(0, ring.EVENT)
        self._most_operators: dict[int, int] = {}
        self._first_ns: int | None = None  # when the first graph began: one that already ran is not in the recording

    def horizon(self) -> int:
        """Everything that started before this time is decoded (ns)."""
        return int(self.waiting["at_ns"].min()) if len(self.waiting) else np.iinfo(np.int64).max

    def decode(self, events: Events, windows: Sequence[Window], final: bool = False) -> Decoded:
        """Decode everything up to the start of the oldest graph that still runs (all of it when `final`).

        events: any order, dtype ring.EVENT, graph and operator kinds of one process. windows: by start, gapless.
        """
        if len(self.waiting):
            events = np.concatenate([self.waiting, events])
        kind = np.ascontiguousarray(events["kind"])
        marks = events[(kind == ring.GRAPH_BEGIN) | (kind == ring.GRAPH_END)]
        marks = marks[np.argsort(marks["at_ns"], kind="stable")]
        begun = marks["at_ns"][marks["kind"] == ring.GRAPH_BEGIN]
        if self._first_ns is None and len(begun):
            self._first_ns = int(begun[0])
        execs, running = _executions(marks)
        open_since = min((start for start, *_ in running), default=None)
        # An operator that straddles "now" is complete only with its graph; so wait for the oldest open graph, and for
        # stragglers of the last ended one: they were published before its end.
        last = final  # what runs now is cut by the recording's end
        final = final or len(events) > MAX_WAITING  # a graph whose end was lost must not hold everything back
        horizon = np.iinfo(np.int64).max if final or open_since is None else open_since
        execs = [e for e in execs if e[0] < horizon]
        starts = np.where(kind == ring.OP_WORK, events["b"].view(np.int64), events["at_ns"])
        late = starts >= horizon
        self.waiting = events[late]
        if final:
            execs = sorted([*execs, *running], key=lambda e: e[0])
        out = Decoded()
        settled = np.flatnonzero(((kind == ring.OP) | (kind == ring.OP_WORK)) & ~late)
        ids, counts = (events[(kind == of) & ~late] for of in (ring.EXPERTS, ring.COUNTS))
        if execs:
            visits = _visits(events, kind, starts, settled)
            self._rows(visits, execs, windows, last, out)
            if len(ids):
                _place_experts(ids, visits, out)
            if len(counts) and out.op_exec:
                op = _at(out.op_exec["tid"], out.op_exec["start_ns"], counts["tid"], counts["at_ns"])
                out.op_counter = count_rows(counts, op, out.op_exec, out.graph_exec)
        else:
            out.unmatched = 0 if self._first_ns is None else len(settled)
            out.lost_ids = count_ids(ids)
        return out

    def _rows(
        self,
        visits: _Visits,
        execs: list[_Execution],
        windows: Sequence[Window],
        last: bool,
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
        _account(windows, graphs, begin, end, levels)
        visits.owner = np.searchsorted(begin, visits.start, "right") - 1
        if count > 1 and (begin[1:] < end[:-1]).any():
            # Two graphs of one process at a time: only the thread that began a graph is sure to work on it.
            visits.owner[:] = -1
            for thread in np.unique(tid):
                its, by_it = np.flatnonzero(tid == thread), visits.tid == thread
                latest = np.searchsorted(begin[its], visits.start[by_it], "right") - 1
                visits.owner[by_it] = np.where(latest < 0, -1, its[latest])
        owner = np.clip(visits.owner, 0, None)
        inside = (visits.owner >= 0) & (visits.start <= np.where(end < 0, begin, end)[owner])
        cut = (visits.start < (self._first_ns or 0)) | (last & (visits.owner >= 0) & (end < 0)[owner])
        out.unmatched += int(np.count_nonzero(~inside & ~cut))
        deep = inside & np.isin(levels, ("op", "thread"))[owner]
        self._operators(visits.of(deep), begin, end, graphs, first, windows, window, levels, out)
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
        visits: _Visits,
        begin: NDArray[np.int64],
        end: NDArray[np.int64],
        graphs: list[KnownGraph],
        first: int,
        windows: Sequence[Window],
        window: NDArray[np.int64],
        levels: NDArray[np.object_],
        out: Decoded,
    ) -> None:
        if not len(visits.start):
            return
        # One sequence per execution and thread index. Builds of 2023 have no fixed first thread: whichever is the last
        # to finish a node takes index 0, prepares the next one and joins the others. Where executions follow one
        # another, an order by start is one by execution too.
        # Later barriers of an operator (in matrix products) move its end: the last per (thread, start) counts.
        by_graph = visits.owner if (begin[1:] < end[:-1]).any() else visits.ith
        visits = visits.of(np.lexsort((visits.work_end, visits.start, visits.ith, by_graph)))
        one = visits.joined()
        same_next = one & (visits.start[1:] == visits.start[:-1])
        keep = np.append(~same_next, True)
        # Nested operator functions, and the stages of a node in old builds, report one node several times in a row.
        keep[1:] &= ~(one & (visits.node[1:] == visits.node[:-1]) & ~same_next)
        visits = visits.of(keep)
        described = np.array([g.described for g in graphs], bool)
        graph_ids = np.array([g.graph_id for g in graphs], np.int64)
        node = np.full(len(visits.start), -1, np.int32)
        for graph_id in np.unique(graph_ids[described]):
            graph = graphs[int(np.flatnonzero(graph_ids == graph_id)[0])]
            mine = np.flatnonzero((graph_ids == graph_id)[visits.owner])
            asked = visits.node[mine]
            at = np.searchsorted(graph.addresses, asked)
            at[at == len(graph.addresses)] = 0  # beyond the last: it will not compare equal
            node[mine] = np.where(graph.addresses[at] == asked, graph.nodes[at], -1)
        real = node != EMPTY_NODE
        visits, node = visits.of(real), node[real]
        if not len(node):
            return
        owner = visits.owner
        finish = np.where(np.append(visits.joined(), False), np.append(visits.start[1:], 0), end[owner])
        placed = node >= 0
        unknown = int(np.count_nonzero(~placed & described[owner]))
        out.strangers += unknown
        out.unmatched += unknown
        turns = np.flatnonzero(np.append(True, visits.tid[1:] != visits.tid[:-1]))  # where another thread's begin
        firsts = np.unique(visits.tid[turns], return_index=True)
        out.thread_index = {int(t): int(visits.ith[turns[i]]) for t, i in zip(*firsts, strict=True)}
        self._demote_incomplete(owner[placed & (visits.ith == 0)], owner, graphs, windows, window, levels, out)
        placed &= (levels != "token")[owner]
        # The barrier can be left before the next operator starts, never after: an own-work end past the operator is
        # the sign of a barrier that belongs to the next one.
        visits.work_end = np.minimum(visits.work_end, finish)
        visits, node, finish = visits.of(placed), node[placed], finish[placed]
        out.op_exec = {
            "exec_id": first + visits.owner,
            "node_index": node,
            "tid": visits.tid,
            "ith": visits.ith,
            "start_ns": visits.start,
            "compute_end_ns": np.ma.masked_array(visits.work_end, visits.work_end < 0),
            "end_ns": finish,
        }

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


def _account(
    windows: Sequence[Window],
    graphs: list[KnownGraph],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    levels: NDArray[np.object_],
) -> None:
    """To which windows the executions' time is booked: what ran while probes were placed or taken off, to those."""
    deep = np.array([w.level != "token" for w in windows])
    since = np.array([
        w.start_ns if w.level == "token" or at == 0 else windows[at - 1].end_ns or w.start_ns
        for at, w in enumerate(windows)
    ])  # fmt: skip
    payer = np.clip(np.searchsorted(since, begin, "right") - 1, 0, len(windows) - 1)
    following = np.minimum(payer + 1, len(windows) - 1)
    payers: list[int] = np.where(~deep[payer] & deep[following] & (end > since[following]), following, payer).tolist()
    for at, graph, b, e, level in zip(payers, graphs, begin.tolist(), end.tolist(), levels, strict=True):
        window = windows[at]
        if e < 0:
            continue
        window.busy_ns += e - b
        if graph.tokens == graph.outputs == 1:
            if level == window.level:
                window.steps += 1
                window.steps_ns += e - b
            else:
                window.switch_steps += 1
                window.switch_ns += e - b


def _place_experts(events: Events, visits: _Visits, out: Decoded) -> None:
    """An event belongs to the operator that its thread started at the event's time."""
    known = _at(visits.tid, visits.start, events["tid"], events["at_ns"]) >= 0
    out.lost_ids = count_ids(events[~known])
    events = events[known]
    if out.op_exec and len(events):
        op = _at(out.op_exec["tid"], out.op_exec["start_ns"], events["tid"], events["at_ns"])
        out.expert_use, unread = expert_rows(events, op, out.op_exec)
        out.lost_ids += unread


def _at(
    tids: NDArray[np.generic], starts: NDArray[np.generic], tid: NDArray[np.int32], start: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where each (tid, start) is among (tids, starts); -1: nowhere."""
    found = np.full(len(tid), -1, np.int64)
    for thread in np.unique(tid):
        there, asked = np.flatnonzero(tids == thread), tid == thread
        if len(there):
            there = there[np.argsort(starts[there], kind="stable")]
            at = np.minimum(np.searchsorted(starts[there], start[asked]), len(there) - 1)
            found[asked] = np.where(starts[there[at]] == start[asked], there[at], -1)
    return found


def _executions(marks: Events) -> tuple[list[_Execution], list[_Execution]]:
    """Every graph that ended, by start, and those that still run. marks: begins and ends of graphs, by time."""
    running: dict[int, tuple[int, int]] = {}
    ended: list[_Execution] = []
    for kind, at, tid, key in zip(
        marks["kind"].tolist(), marks["at_ns"].tolist(), marks["tid"].tolist(), marks["b"].tolist(), strict=True
    ):
        if kind == ring.GRAPH_BEGIN:
            running[tid] = (at, key)
        elif tid in running:
            start, begun = running.pop(tid)
            ended.append((start, at, tid, begun))
    ended.sort(key=lambda e: e[0])
    return ended, [(start, None, tid, key) for tid, (start, key) in running.items()]
