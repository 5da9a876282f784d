"""The kernel side of a recording: the compiled programs, the rings, and the probes attached level by level."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from flowprof.profiler import hitcost, kernel
from flowprof.profiler.attach import Attachment, AttachPoint, attach
from flowprof.profiler.bpf import Module as BpfModule
from flowprof.profiler.doorbell import Doorbell
from flowprof.profiler.errors import NotFoundError
from flowprof.profiler.layout import Layouts
from flowprof.profiler.plan import PlannedSite
from flowprof.profiler.ring import Rings
from numpy.typing import NDArray

SOURCE = "ggml.bpf.c"
DEEP = {"op": ("op",), "thread": ("op", "thread")}  # window level → levels of the plan that it attaches


class ProbesInPlace:
    """Programs and links. Closing detaches everything; so does the end of this process, however it comes."""

    def __init__(self, ring_shift: int | None = None, multi: bool | None = None) -> None:
        """Compile and map. multi: uprobe_multi links (default: where the kernel has them). Raises BpfError."""
        self.multi = kernel.version() >= kernel.UPROBE_MULTI if multi is None else multi
        self._bpf = BpfModule(SOURCE, ring_shift, self.multi)
        self.rings = Rings(
            self._bpf.map_fd("ring_heads"), self._bpf.map_fd("ring_events"), self._bpf.cpus, self._bpf.ring_shift
        )
        self.doorbell = Doorbell(self._bpf.map_fd("doorbell"))
        self._always: list[Attachment] = []
        self._deep: list[Attachment] = []

    def attach_always(self, sites: list[PlannedSite]) -> None:
        """Attach the graph and request probes: they stay on until the end."""
        self._always += self._attach(sites, deep=False)

    def attach_deep(self, sites: list[PlannedSite], level: str) -> None:
        """Attach what a window of `level` needs on top. Targets that ended meanwhile are passed over."""
        wanted = [site for site in sites if site.level in DEEP[level] and not site.refused]
        if level == "thread":
            self._bpf.clear("threads")  # what a thread was at when the last window closed says nothing now
        self._deep += self._attach(wanted, deep=level == "thread")

    def detach_deep(self) -> None:
        """Detach what `attach_deep` attached."""
        while self._deep:
            self._deep.pop().close()

    def _attach(self, sites: list[PlannedSite], deep: bool) -> list[Attachment]:
        groups: dict[tuple[int, str], list[PlannedSite]] = {}
        for site in sites:
            program = site.probe.thread_program if deep and site.probe.thread_program else site.probe.program
            groups.setdefault((site.pid, program), []).append(site)
        placed: list[Attachment] = []
        try:
            for (pid, program), members in groups.items():
                points = [
                    AttachPoint(s.module.open_path, s.offset or 0, s.site_id, s.probe.kind == "return") for s in members
                ]
                try:
                    placed.append(attach(self._bpf.program(program), points, pid, self.multi))
                except NotFoundError:
                    continue
        except BaseException:
            for attachment in placed:
                attachment.close()
            raise
        return placed

    def load(self, sites: list[PlannedSite]) -> None:
        """Load every program that the sites will need, so that windows open without delay."""
        for site in sites:
            if not site.refused:
                self._bpf.program(site.probe.program)
                if site.probe.thread_program:
                    self._bpf.program(site.probe.thread_program)

    def set_layout(self, layouts: Layouts, watched: int = 0) -> None:
        """Tell the programs where the fields are."""
        graph = layouts.graph
        self._bpf.write_array(
            "layouts",
            [graph.n_nodes, graph.nodes, graph.uid or 0, int(graph.inline), layouts.tensor.ne, layouts.params.ith,
             watched, 1],
        )  # fmt: skip

    def set_known(self, key: int, site_id: int) -> None:
        """A graph that has been described need not ring again at this site."""
        self._bpf.insert("known_graphs", key ^ site_id << 40)

    def forget_known(self) -> None:
        """Graphs of a program that is gone: let all ring again."""
        self._bpf.clear("known_graphs")

    def site_hits(self, count: int) -> NDArray[np.int64]:
        """Hits of sites 0 … count-1 since the start."""
        hits: NDArray[np.int64] = self._bpf.site_hits(count)
        return hits

    @property
    def thread_table_full(self) -> int:
        """Operators not seen because too many threads run."""
        return self._bpf.read_counter("thread_table_full")

    def measure_hit_cost(self, is_return: bool = False) -> hitcost.HitCost:
        """The cost of a hit of a program of ours that writes one event, on this host, on functions of our own."""

        def place(path: str, offsets: Sequence[int]) -> Attachment:
            points = [AttachPoint(path, offset, 0, is_return) for offset in offsets]
            return attach(self._bpf.program("call"), points, os.getpid(), self.multi)

        return hitcost.measure(place)  # its events are of kind CALL: the reader leaves them out

    def close(self) -> None:
        """Detach everything."""
        self.detach_deep()
        while self._always:
            self._always.pop().close()
        self.doorbell.close()
