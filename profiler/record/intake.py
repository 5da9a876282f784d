"""Take events out of the rings, hand them to their processes, decode them, and queue the rows."""

from __future__ import annotations

import functools
import time

import numpy as np
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.record import calls
from flowprof.profiler.record.decode import Decoded
from flowprof.profiler.record.live_graphs import LiveGraphs
from flowprof.profiler.record.requests import cell_rows, part_rows, token_rows
from flowprof.profiler.record.session import Process, Session
from flowprof.profiler.record.writer import Writer
from flowprof.profiler.resources import events as resource_events

MIN_CHECKED, MAX_STRANGERS = 500, 0.05  # operators before a verdict; share that may be no nodes of their graph
KERNEL_KINDS = (ring.OFF_CPU, ring.MAJOR_FAULT)
_NEVER = np.iinfo(np.int64).max
REQUEST_KINDS = (
    ring.REQUEST_POST, ring.REQUEST_RESULT, ring.REQUEST_DONE, ring.SLOT_START, ring.SLOT_TOKEN, ring.SLOT_RELEASE,
    ring.BATCH_PART, ring.CELLS_FREED, ring.NO_CELLS,
)  # fmt: skip


class Intake:
    """The events of all processes of a session."""

    def __init__(self, session: Session, graphs: LiveGraphs, writer: Writer) -> None:
        self._session = session
        self._graphs = graphs
        self._writer = writer
        self._pending_sched: list[np.ndarray] = []
        self._pid_of_site = np.zeros(1, np.int64)
        self.op_events = 0  # operators of first threads since a window was opened

    def know_sites(self) -> None:
        """Sites were added: whose are they?"""
        sites = self._session.sites
        self._pid_of_site = np.zeros(max((s.site_id for s in sites), default=0) + 2, np.int64)
        for site in sites:
            self._pid_of_site[site.site_id] = site.pid

    @property
    def pending(self) -> int:
        """Events that were taken and not decoded yet."""
        of_engines = sum(len(part) for process in self._session.processes.values() for part in process.pending)
        called = sum(len(part) for process in self._session.processes.values() for part in process.pending_calls)
        return of_engines + called + sum(map(len, [*self._pending_sched, *self._session.pending_resources]))

    def take(self) -> None:
        """Read the rings, hand events to their processes, describe graphs that are new."""
        session = self._session
        progress = session.progress
        events = session.probes.rings.read()
        if session.end_ns is not None:  # graphs that began before the end may still end
            events = events[(events["at_ns"] <= session.end_ns) | (events["kind"] == ring.GRAPH_END)]
        of_kernel, events = _parted(events, KERNEL_KINDS)
        progress.events += len(of_kernel)
        if len(of_kernel):
            self._pending_sched.append(of_kernel)
        measuring = events["site"] == 0  # what a hit costs, on functions of our own
        if measuring.any():
            events = events[~measuring]
        if not len(events):
            return
        if progress.first_event_s is None:
            progress.first_event_s = time.monotonic() - session.began
        progress.events += len(events)
        of_resources, events = _parted(events, resource_events.KINDS)
        if len(of_resources):
            session.pending_resources.append(of_resources)
        self.op_events += int(np.count_nonzero(events["kind"] == ring.OP))
        for pid, process in session.processes.items():
            mine = events
            if len(session.processes) > 1:
                mine = events[self._pid_of_site[np.minimum(events["site"], len(self._pid_of_site) - 1)] == pid]
            called, mine = _parted(mine, calls.KINDS)
            if len(called):
                process.pending_calls.append(called)
            asked, mine = _parted(mine, REQUEST_KINDS)
            if len(asked):
                self._queue_requests(process, asked[np.argsort(asked["at_ns"], kind="stable")])
            if len(mine):
                self._graphs.describe_new(process, mine)
                process.pending.append(mine)

    def decode(self, final: bool = False) -> None:
        """Decode what was taken, up to the oldest graph that still runs (all of it when `final`)."""
        session = self._session
        window = session.windows[-1]
        if window.end_ns is None:
            window.drops = session.probes.rings.drops - window.drops_before  # graphs with lost operators do not count
        if session.pending_resources:
            rows, samples = session.resources.decode(np.concatenate(session.pending_resources))
            session.pending_resources.clear()
            session.batch.put("resource_event", rows)
            session.batch.put("variable_sample", samples)
        for process in session.processes.values():
            if process.pending_calls:
                self._queue_calls(process)
            if not process.pending and not len(process.decoder.waiting):
                continue
            events = np.concatenate(process.pending) if process.pending else np.empty(0, ring.EVENT)
            process.pending.clear()
            self._queue_decoded(process, process.decoder.decode(events, session.windows, final))

    def settle(self, process: Process) -> None:
        """Its program is gone: graphs that have not ended never will."""
        nothing = np.empty(0, ring.EVENT)
        self._queue_decoded(process, process.decoder.decode(nothing, self._session.windows, final=True))

    def decode_sched(self, final: bool = False) -> None:
        """Decode the scheduler's events. No window waits for them, so it is done now and then, many together."""
        events = np.concatenate(self._pending_sched) if self._pending_sched else np.empty(0, ring.EVENT)
        self._pending_sched.clear()
        if not len(events) and not final:
            return
        for pid, process in self._session.processes.items():
            states, faults = process.schedule.decode(events[events["pid"] == pid], final)
            if len(states["tid"]):
                self._session.batch.put("thread_state", states)
            if len(faults["tid"]):
                self._session.batch.put("page_fault", faults)

    def _queue_requests(self, process: Process, events: np.ndarray) -> None:
        tokens, events = _parted(events, (ring.SLOT_TOKEN,))
        parts, events = _parted(events, (ring.BATCH_PART,))
        cells, events = _parted(events, (ring.CELLS_FREED, ring.NO_CELLS))
        process.requests.add(events)
        if len(tokens):
            self._session.batch.put("slot_token", token_rows(tokens, process.target.pid))
        if len(parts):
            self._session.batch.put("batch_part", part_rows(parts, process.target.pid))
        if len(cells):
            self._session.batch.put("kv_event", cell_rows(cells, process.target.pid))

    def _queue_calls(self, process: Process) -> None:
        events = np.concatenate(process.pending_calls)
        process.pending_calls.clear()
        start = events["a"].view(np.int64)
        inside = np.zeros(len(events), bool)  # attaching takes a while: what began meanwhile is in no window
        for window in self._session.windows:
            if window.level != "token":
                inside |= (start >= window.start_ns) & (start < (window.end_ns or _NEVER))
        inside |= np.isin(events["site"], process.device.kept_always)
        rows, args = process.calls.decode(events[inside])
        self._session.batch.put("api_call", rows)
        about = process.device.decode(events)  # all of them: memory is pinned at any time
        recorded = np.isin(about["call_id"], np.asarray(rows["call_id"]))
        if recorded.any():
            self._session.batch.put("device_call", {name: column[recorded] for name, column in about.items()})
        if args["args_id"]:
            self._session.batch.put("api_args", args)

    def _queue_decoded(self, process: Process, decoded: Decoded) -> None:
        session = self._session
        batch = session.batch
        if decoded.graph_exec:
            batch.put("graph_exec", {**decoded.graph_exec, "pid": process.target.pid})
            for graph_id in np.unique(np.asarray(decoded.graph_exec["graph_id"])).tolist():
                self._writer.write_undescribed(process, int(graph_id))
        if decoded.op_exec:
            batch.put("op_exec", dict(decoded.op_exec))
        if decoded.op_counter and session.probes.counters:
            batch.put("op_counter", session.probes.counters.present(decoded.op_counter))
        if decoded.expert_use and not process.experts_refused:
            batch.put("expert_use", dict(decoded.expert_use))
        process.threads.update(decoded.thread_index)
        process.placed += len(decoded.op_exec.get("exec_id", ()))
        process.strangers += decoded.strangers
        self._self_check(process)
        session.progress.graphs += decoded.graphs
        session.progress.tokens += decoded.outputs
        window_id = session.windows[-1].window_id
        for place, count in (
            ("undescribed_graph", decoded.undescribed),
            ("unmatched_op", decoded.unmatched),
            ("incomplete_graph", decoded.incomplete),
            ("expert_ids", decoded.lost_ids),
        ):
            if count:
                batch.put("loss", {"window_id": [window_id], "place": [place], "events": [count]})

    def _self_check(self, process: Process) -> None:
        """A probe site that was guessed (from the call graph, say) must hand over nodes of the live graphs."""
        seen = process.placed + process.strangers
        if process.distrusted or seen < MIN_CHECKED or process.strangers <= MAX_STRANGERS * seen:
            return
        process.distrusted = True
        pid = process.target.pid
        why = f"{process.strangers} of {seen} operators are no nodes of the graphs that ran: their probes are given up"
        self._session.note(pid, "self-check failed", why)
        rungs = self._session.recording.meta().get("rung", "")
        self._session.recording.set_meta("rung", f"{rungs}; but the self-check failed in {pid}: graph level only")


@functools.cache
def _is_one_of(kinds: tuple[int, ...]) -> np.ndarray:
    """For every number that a kind may be: whether it is one of these."""
    table = np.zeros(1 << 16, bool)
    table[list(kinds)] = True
    return table


def _parted(events: np.ndarray, kinds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The events of these kinds, and the others; the same array where there is nothing to part."""
    which = _is_one_of(kinds)[events["kind"]]
    if not which.any():
        return events[:0], events
    return events[which], events[~which]
