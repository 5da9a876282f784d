"""The kernel side of a recording: the compiled programs, the rings, and the probes attached level by level."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from flowprof.probes import ENGINES
from flowprof.probes.sched import INTERRUPTS, SCHED, Tracepoint
from flowprof.probes.torch import TORCH
from flowprof.profiler.errors import BpfError, NotFoundError
from flowprof.profiler.kernel_side import heap, hitcost
from flowprof.profiler.kernel_side.attach import Attachment, AttachPoint, attach, close_all
from flowprof.profiler.kernel_side.bpf import Kind
from flowprof.profiler.kernel_side.bpf import Module as BpfModule
from flowprof.profiler.kernel_side.doorbell import Doorbell
from flowprof.profiler.kernel_side.operator_counters import KINDS_OF, OperatorCounters
from flowprof.profiler.kernel_side.ring import Rings
from flowprof.profiler.kernel_side.tracepoints import attach_software_event, attach_tracepoint, tracefs
from flowprof.profiler.machine import kernel, rights
from flowprof.profiler.torch.schemas import MAX_ARGS
from numpy.typing import NDArray

if TYPE_CHECKING:  # the compiler need not wait until they are loaded
    from flowprof.profiler.ggml.layout import Layouts
    from flowprof.profiler.planning.planned_site import PlannedSite
    from flowprof.profiler.record.options import Options
    from flowprof.profiler.resources.events import Unit
    from flowprof.profiler.torch.layout import TensorLayout
    from flowprof.profiler.torch.schemas import Place

# Always compiled: ggml's programs, the scheduler's, and the maps of calls, which engines have in common. The sources of
# other engines take longer than these, and are compiled when a target has such an engine.
SOURCES = ("ggml.bpf.c", "stacks.bpf.c", "sched.bpf.c", "calls.bpf.c")
LATER = ("calls.bpf.c",)  # in front of those that are compiled later
RESOURCES = "resources.bpf.c"  # where they are asked for
STACKS = 1024  # that the kernel side keeps, of 8 KiB each, until the reader has asked for them
# A call whose exit is not probed yet would seem to have been left by an exception.
EXITS = ("call_end", "resource_leave")
NO_EXPERTS = (0, 0, 0, 0, 0)
HANDS_OVER = {  # long work is done by another program, which a map names
    "batch": ("batch_programs", "batch_parts"),
    "resource_enter": ("tap_programs", "resource_more"),
    "resource_leave": ("tap_programs", "resource_more"),
    "resource_syscall": ("syscall_tap_programs", "resource_syscall_more"),
    "resource_syscall_end": ("syscall_tap_programs", "resource_syscall_more"),
}
SYSCALLS = ("syscall", "syscall-end")  # kinds of sites that are tracepoints
ALWAYS = ("token", "graph", "resource")  # levels of the plan that are attached all the time
DEEP = {"op": ("op",), "thread": ("op", "thread")}  # window level → levels of the plan that it attaches


class ProbesInPlace:
    """Programs and links. The end of this process, however it comes, detaches and closes all of them."""

    def __init__(
        self,
        ring_shift: int | None = None,
        multi: bool | None = None,
        counters: str = "",
        resources: bool = False,
        engines: Iterable[str] = (),
        stacks: bool = False,
    ) -> None:
        """Compile and map. multi: uprobe_multi links (default: where the kernel has them); counters: per operator,
        one of operator_counters.KINDS_OF; resources: of applications can be recorded, too; engines: names of those that
        `compile` need not be asked for; stacks: there is room for more than one. Raises BpfError.
        """
        self.multi = kernel.version() >= kernel.UPROBE_MULTI if multi is None else multi
        sources = tuple(dict.fromkeys((*SOURCES, *_sources(engines), *((RESOURCES,) if resources else ()))))
        self._resources = resources
        self._bpf = BpfModule(*sources, ring_shift=ring_shift, multi=self.multi, counters=KINDS_OF.get(counters, 0),
                              stacks=STACKS if stacks else 1)  # fmt: skip
        self._modules = dict.fromkeys(sources, self._bpf)
        self.counters = OperatorCounters(self._bpf, counters) if counters else None
        self.rings = Rings(
            self._bpf.map_fd("ring_heads"), self._bpf.map_fd("ring_events"), self._bpf.cpus, self._bpf.ring_shift
        )
        self.doorbell = Doorbell(self._bpf.map_fd("doorbell"))
        self._layout: list[int] = []
        self._experts: tuple[int, ...] = NO_EXPERTS
        self._epoch = 0
        self._cookies: dict[int, int] = {}  # of sites at which resources are seen: the upper half
        self._units: dict[int, Unit] = {}  # of the same
        self._always: list[Attachment] = []
        self._deep: list[Attachment] = []
        self.interrupts_seen: tuple[str, ...] = ()  # kinds of interrupts that are told from the thread they interrupt

    @classmethod
    def of(cls, options: Options, engines: Iterable[str]) -> ProbesInPlace:
        """What a recording with these options needs. Raises BpfError."""
        resources = bool(options.manifests)
        stacks = resources or "sched" in options.levels
        return cls(options.ring_shift, options.multi, options.counters, resources, engines, stacks)

    def compile(self, engines: Iterable[str]) -> None:
        """Compile the programs of these engines, named as in the catalogue, as far as they are not there yet.

        It takes a second for a new one; the rings are not read meanwhile. Raises BpfError.
        """
        missing = [source for source in _sources(engines) if source not in self._modules]
        if missing:
            module = BpfModule(*LATER, *missing, ring_shift=self._bpf.ring_shift, multi=self.multi, joins=self._bpf)
            self._modules.update(dict.fromkeys(missing, module))
            heap.give_back()

    def _programs_of(self, site: PlannedSite) -> BpfModule:
        (source,) = _sources([site.engine]) or SOURCES[:1]
        return self._bpf if site.level == "resource" else self._modules[source]

    def attach_always(self, sites: list[PlannedSite]) -> None:
        """Attach the graph and request probes: they stay on until the end."""
        self._always += self._attach(sites, deep=False)

    def attach_sched(self, site_of: Mapping[str, int]) -> dict[str, str]:
        """Attach the kernel's events (probes/sched.py), numbered by `site_of`. Returns why some are refused."""
        if rights.own_pid_namespace():
            return {event.id: rights.OTHER_NUMBERS for event in SCHED}
        refused = {}
        try:
            with tracefs() as root:
                for event in SCHED:
                    kind: Literal["TRACEPOINT", "PERF_EVENT"]
                    kind = "TRACEPOINT" if isinstance(event, Tracepoint) else "PERF_EVENT"
                    try:
                        program = self._bpf.program(event.program, kind)
                        if isinstance(event, Tracepoint):
                            self._always.append(attach_tracepoint(program, event, root, site_of[event.id]))
                        else:
                            self._always.append(attach_software_event(program, event, site_of[event.id]))
                    except BpfError as error:
                        refused[event.id] = error.message
                self._attach_interrupts(root)
        except BpfError as error:
            refused = {event.id: error.message for event in SCHED}
        return refused

    def _attach_interrupts(self, root: Path) -> None:
        """So that a wake-up by an interrupt is not blamed on whoever was interrupted; begin and end, or neither."""
        for pair in INTERRUPTS:
            placed: list[Attachment] = []
            try:
                for event in reversed(pair):  # an end without its begin does no harm
                    placed.append(attach_tracepoint(self._bpf.program(event.program, "TRACEPOINT"), event, root, 0))
            except BpfError:
                close_all(placed)
                continue
            self._always += placed
            self.interrupts_seen += (pair[0].event.removesuffix("_entry"),)

    def trace(self, pid: int) -> None:
        """The scheduler's events of this process are wanted."""
        self._bpf.insert("traced", pid)

    def thread_names(self, tids: Sequence[int]) -> dict[int, str]:
        """Names of threads, also of other processes, as they were when they got in the way."""
        return self._bpf.names("thread_names", tids)

    def attach_deep(self, sites: list[PlannedSite], level: str) -> None:
        """Attach what a window of `level` needs on top. Targets that ended meanwhile are passed over."""
        wanted = [site for site in sites if site.level in DEEP[level] and not site.refused]
        if level == "thread":
            self._bpf.clear("threads")  # what a thread was at when the last window closed says nothing now
        if self.counters:
            self.counters.forget()
        self._epoch += 1
        self._bpf.write("call_epoch", 0, struct.pack("<I", self._epoch))  # calls that were open then are not any more
        self._deep += self._attach(wanted, deep=level == "thread")

    def detach_deep(self) -> None:
        """Detach what `attach_deep` attached."""
        close_all(self._deep)

    def _attach(self, sites: list[PlannedSite], deep: bool) -> list[Attachment]:
        groups: dict[tuple[int, str, str, Unit], list[PlannedSite]] = {}
        for site in sites:
            if site.probe.kind in SYSCALLS:
                continue
            program = site.probe.thread_program if deep and site.probe.thread_program else site.probe.program
            unit = self._units.get(site.site_id, frozenset())
            groups.setdefault((site.pid, program, site.engine, unit), []).append(site)
        placed: list[Attachment] = []
        calls = [site for site in sites if site.probe.kind in SYSCALLS]
        exits_first = sorted(groups.items(), key=lambda group: group[0][1] not in EXITS)
        try:
            placed += self._attach_syscalls(calls)
            for (pid, program, *_), members in exits_first:
                points = [
                    AttachPoint(
                        s.module.open_path,
                        s.offset or 0,
                        self._cookie(s),
                        s.probe.kind == "return",
                    )
                    for s in members
                ]
                try:
                    loaded = self._programs_of(members[0]).program(program)
                    one = attach(loaded, points, pid, self.multi)
                    one.sites = frozenset(site.site_id for site in members)
                    placed.append(one)
                except NotFoundError:
                    continue
        except BaseException:
            close_all(placed)
            raise
        return placed

    def detach_sites(self, sites: Iterable[int]) -> None:
        """Detach what `attach_always` attached at these sites: all those of some units."""
        gone = [one for one in self._always if one.sites and one.sites.issubset(sites)]
        self._always = [one for one in self._always if one not in gone]
        close_all(gone)

    def _attach_syscalls(self, sites: list[PlannedSite]) -> list[Attachment]:
        placed: list[Attachment] = []
        if not sites:
            return placed
        if rights.own_pid_namespace():
            raise BpfError(f"resources by system calls: {rights.OTHER_NUMBERS}", "flowprof doctor")
        with tracefs() as root:
            for site in sites:
                way = "exit" if site.probe.kind == SYSCALLS[1] else "enter"
                event = Tracepoint(site.probe.id, site.probe.program, "syscalls", f"sys_{way}_{site.symbol}", ())
                program = self._bpf.program(site.probe.program, "TRACEPOINT", site.site_id)
                try:
                    one = attach_tracepoint(program, event, root, self._cookie(site))
                    one.sites = frozenset((site.site_id,))
                    placed.append(one)
                except BpfError:
                    close_all(placed)
                    raise
        return placed

    def _cookie(self, site: PlannedSite) -> int:
        return site.site_id | site.entry_id << 16 | self._cookies.get(site.site_id, 0)

    def load(self, sites: list[PlannedSite]) -> None:
        """Load every program that the sites will need, so that windows open without delay."""
        for site in sites:
            if not site.refused:
                module = self._programs_of(site)
                kind: Kind = "TRACEPOINT" if site.probe.kind in SYSCALLS else "KPROBE"
                module.program(site.probe.program, kind, site.site_id if kind == "TRACEPOINT" else 0)
                if site.probe.thread_program:
                    module.program(site.probe.thread_program)
                if site.probe.program in HANDS_OVER:
                    table, program = HANDS_OVER[site.probe.program]
                    module.set_program(table, module.program(program, kind))

    def set_layout(self, layouts: Layouts, watched: int = 0) -> None:
        """Tell the programs where the fields are."""
        graph = layouts.graph
        self._layout = [graph.n_nodes, graph.nodes, graph.uid or 0, int(graph.inline), layouts.tensor.ne,
                        layouts.params.ith, watched, 1]  # fmt: skip
        self._bpf.write_array("layouts", [*self._layout, *self._experts])

    def read_experts(self, fields: tuple[int, ...]) -> None:
        """From now on read the ids of the chosen experts (see `GraphBook.expert_fields`). Raises BpfError."""
        if not any(self._experts):
            self._bpf.set_program("expert_programs", self._bpf.program("expert_ids"))
        self._experts = fields
        self._bpf.write_array("layouts", [*self._layout, *self._experts])

    def read_arguments(self, site_id: int, places: Sequence[Place]) -> None:
        """From now on read these arguments of the operator that is entered at this site."""
        packed = b"".join(bytes((place.kind, place.where, place.length, place.index)) for place in places)
        self._modules[TORCH.source].write("torch_sites", site_id, packed.ljust(4 * MAX_ARGS, b"\0"))

    def place_taps(self, taps: Mapping[int, bytes], cookies: Mapping[int, int], units: Mapping[int, Unit]) -> None:
        """From now on these are reported at the sites with these cookies (profiler/resources/events.py). Sites of one
        unit can be detached without others."""
        self._units.update(units)
        for number, packed in taps.items():
            self._bpf.write("taps", number, packed)
        self._cookies.update(cookies)

    def stacks(self, keys: Iterable[int]) -> dict[int, bytes]:
        """The stacks with these keys, as far as they are still there."""
        return self._bpf.values("user_stacks", keys)

    def away_since(self, tids: Sequence[int]) -> dict[int, int]:
        """Of those of these threads that do not run since when, as far as it was seen."""
        return {tid: int.from_bytes(raw[:8], "little") for tid, raw in self._bpf.values("away_threads", tids).items()}

    @property
    def resource_losses(self) -> tuple[int, int]:
        """Values of resources that could not be read; entries of functions for which there was no room."""
        if not self._resources:
            return 0, 0
        return self._bpf.read_counter("resource_faults"), self._bpf.read_counter("resource_not_kept")

    def set_tensor_layout(self, pid: int, layout: TensorLayout) -> None:
        """Where this process's tensors keep their shapes; before, none is read."""
        self._modules[TORCH.source].write(
            "torch_layouts", pid, struct.pack("<4I", layout.ndim, layout.sizes, layout.dtype, layout.outside)
        )

    def arguments(self, keys: Iterable[int]) -> dict[int, bytes]:
        """What was read of the calls with these keys, as far as it is still there."""
        module = self._modules.get(TORCH.source)
        return module.values("torch_args_seen", keys) if module else {}

    @property
    def calls_not_kept(self) -> int:
        """Calls not seen: too deep in one another, or of too many threads."""
        return self._bpf.read_counter("calls_not_kept")

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
    def passed_over(self) -> int:
        """Calls of our programs that the kernel left out, mostly of the scheduler's: one of ours was at work.

        Those at interrupts do not count: no event is missing with them, at worst a waker is the one interrupted.
        """
        return sum(module.misses("interrupt_begin", "interrupt_end") for module in set(self._modules.values()))

    @property
    def unseen_returns(self) -> int:
        """Times a thread of a target left a processor to which, as far as we saw, it had not come back."""
        return self._bpf.read_counter("unseen_returns")

    @property
    def thread_table_full(self) -> int:
        """Operators not seen because too many threads run."""
        return self._bpf.read_counter("thread_table_full")

    @property
    def expert_ids_left(self) -> int:
        """Ids of experts that were not read: more than one graph's share, or no room in the ring."""
        return self._bpf.read_counter("expert_ids_left")

    @property
    def batch_tokens_left(self) -> int:
        """Tokens of batches whose sequence was not read: too many, or a struct that is not as expected."""
        return self._bpf.read_counter("batch_tokens_left")

    def measure_hit_cost(self, is_return: bool = False) -> hitcost.HitCost:
        """The cost of a hit of a program of ours that writes one event, on this host, on functions of our own."""

        def place(path: str, offsets: Sequence[int]) -> hitcost.Closeable:
            points = [AttachPoint(path, offset, 0, is_return) for offset in offsets]
            return _ClosedAside(attach(self._bpf.program("call"), points, os.getpid(), self.multi))

        return hitcost.measure(place)  # its events are of kind CALL: the reader leaves them out

    def detach(self) -> None:
        """Detach everything; what was counted and is in the rings can still be read."""
        close_all(self._deep)
        close_all(self._always)

    def close(self) -> None:
        """Detach everything, and give the programs and maps back."""
        self.detach()
        self.doorbell.close()
        if self.counters:
            self.counters.close()
        for module in reversed(dict.fromkeys(self._modules.values())):  # the maps' owner last
            module.close()


def _sources(engines: Iterable[str]) -> tuple[str, ...]:
    """The .bpf.c of these engines, each once; other names say nothing."""
    names = set(engines)
    return tuple(dict.fromkeys(engine.source for engine in ENGINES if engine.name in names))


class _ClosedAside:
    """An attachment to a file of our own: that the kernel waits some 50 ms when it is closed is nobody's loss."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment

    def close(self) -> None:
        """Begin to close."""
        threading.Thread(target=self._attachment.close).start()
