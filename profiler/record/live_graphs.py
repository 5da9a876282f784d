"""Describe graphs while they are there; tell the kernel side what it needs: layouts, known graphs, experts."""

from __future__ import annotations

import numpy as np
from flowprof.profiler.errors import BpfError
from flowprof.profiler.ggml.describe import GraphDescription
from flowprof.profiler.ggml.graphs import EXPERT_OP, FINGERPRINT
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.record.session import Process, Session
from flowprof.profiler.record.writer import Writer


class LiveGraphs:
    """The graphs of all processes of a session."""

    def __init__(self, session: Session, writer: Writer) -> None:
        self._session = session
        self._writer = writer
        self._layout: object = None  # what the programs read through

    def describe_new(self, process: Process, events: np.ndarray) -> None:
        """Read the graphs that begin in `events` and that nobody has described. Sets keys to 0 that were misread."""
        begins = events[events["kind"] == ring.GRAPH_BEGIN]
        if not len(begins):
            return
        if process.book.layouts is None:
            newest = begins[np.argmax(begins["at_ns"])]
            if not process.book.resolve(int(newest["a"])) or not self._adopt_layout(process, events):
                return
            begins = events[events["kind"] == ring.GRAPH_BEGIN]
        if all(key == 0 or process.book.is_described(key) for key in set(begins["b"].tolist())):
            return
        begins = begins[np.lexsort((begins["at_ns"], begins["a"]))]
        last = np.append(begins["a"][1:] != begins["a"][:-1], True)  # what was there before is there no more
        for key, cgraph in begins[last][["b", "a"]].tolist():
            if key and not process.book.is_described(key):
                self._describe(process, key, cgraph)

    def expect_layout(self, process: Process) -> None:
        """Before the first graph: let the programs read through the layout that is most probable."""
        expected = process.book.expected()
        if expected is not None and self._layout is None:
            self._layout = (expected.graph, expected.params, expected.tensor.ne)
            self._session.probes.set_layout(expected)

    def _adopt_layout(self, process: Process, events: np.ndarray) -> bool:
        """A live graph has shown the layout: keys read through another one are worth nothing."""
        layouts = process.book.layouts
        if layouts is None:
            return False
        wanted = (layouts.graph, layouts.params, layouts.tensor.ne)
        if self._layout != wanted:
            others = [p for p in self._session.processes.values() if p is not process]
            if any(p.book.layouts is not None for p in others):
                process.book.trouble = "its build's struct layouts differ from the first target's: record it on its own"
                process.book.layouts = None
                return False
            for part in (events, *process.pending):
                part["b"][part["kind"] == ring.GRAPH_BEGIN] = 0
            self._layout = wanted
            self._session.probes.set_layout(layouts)
        self._session.recording.set_meta("layout", layouts.version)
        return True

    def _describe(self, process: Process, key: int, cgraph: int) -> None:
        found = process.book.describe(key, cgraph)
        if found is None:
            return
        graph, description = found
        probes = self._session.probes
        if description is not None and key & FINGERPRINT and process.book.layouts is not None:
            watched = process.book.watched_node(description)
            if watched and watched != process.book.watched:
                process.book.watched = watched
                probes.set_layout(process.book.layouts, watched)  # keys change: graphs will be described again
        for site in process.sites:
            if site.probe.program == "graph_begin":
                probes.set_known(key, site.site_id)
        if description is not None:
            self._writer.write_graph(process, key, graph.graph_id, description)
            if EXPERT_OP in description.op:
                self._read_experts(process, description)

    def _read_experts(self, process: Process, description: GraphDescription) -> None:
        """The first graph with experts: from now on their ids are read, where this build has them as expected."""
        fields = process.book.expert_fields(description)
        processes = self._session.processes.values()
        others = {p.experts for p in processes if p is not process and p.ended_ns is None and p.experts}
        if fields is None or (others and fields not in others):
            what = "has its ids elsewhere" if fields is None else "differs from another target's: record it on its own"
            self._refuse_experts(process, f"this build's {EXPERT_OP} {what}")
        elif process.experts != fields:
            process.experts = fields
            try:
                self._session.probes.read_experts(fields)
                self._session.recording.set_meta("experts", "yes")
            except BpfError as error:
                self._refuse_experts(process, error.message)

    def _refuse_experts(self, process: Process, why: str) -> None:
        if not process.experts_refused:
            process.experts_refused = True
            self._session.recording.set_meta("experts", f"no: {why}")
            self._session.note(process.target.pid, "experts not read", why)
