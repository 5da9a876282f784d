"""Look after the targets while they are recorded: they load libraries, start other programs, and end."""

from __future__ import annotations

import os
import re
import select
from dataclasses import replace
from pathlib import Path

from flowprof.probes import engines
from flowprof.profiler.cuda.device_calls import DeviceCalls
from flowprof.profiler.cuda.host_memory import HostMemory
from flowprof.profiler.cuda.kernel_names import KernelNames
from flowprof.profiler.errors import FlowprofError, NotFoundError
from flowprof.profiler.ggml.graphs import GraphBook, live_modules
from flowprof.profiler.kernel_side.probes_in_place import ALWAYS
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import Plan, holds_engine, make_plan, no_room
from flowprof.profiler.planning.planned_site import PlannedSite
from flowprof.profiler.record.calls import Calls
from flowprof.profiler.record.counters import ThreadCounters
from flowprof.profiler.record.decode import Decoder
from flowprof.profiler.record.intake import Intake
from flowprof.profiler.record.live_graphs import LiveGraphs
from flowprof.profiler.record.quota import QuotaCounts
from flowprof.profiler.record.requests import Requests
from flowprof.profiler.record.schedule import Schedule
from flowprof.profiler.record.session import Process, Session, now_ns
from flowprof.profiler.record.writer import Writer
from flowprof.profiler.target import Module, Target, code_size, executable_lines, modules_in, open_target
from flowprof.profiler.torch.prepare import prepare as prepare_torch

SURE_S = 10.0  # code is looked at so often even if there is as much of it as before


class Follower:
    """The targets of a session."""

    def __init__(self, session: Session, intake: Intake, graphs: LiveGraphs, writer: Writer) -> None:
        self._session = session
        self._intake = intake
        self._graphs = graphs
        self._writer = writer
        self._kernel = kernel.version()
        self._next_graph = 0
        self._next_exec = 0
        self._rate = (0.0, 0)  # when progress was last shown, and the tokens then

    def add_process(self, target: Target, stayed: bool = False) -> None:
        """Begin with a target, or go on with one that started another program or (`stayed`) loaded a library."""
        session, pid = self._session, target.pid
        session.probes.compile(session.plan.engines())
        debug_dirs = session.options.debug_dirs
        of_resources = {manifest.name for manifest in session.options.manifests}
        planned = [m for m, engine, _ in session.plan.modules if m.pid == pid and engine not in of_resources]
        known = {m.open_path for m in planned}
        base = target.with_marker(b"ggml_op_name")  # the names may lie in a library of their own
        modules = live_modules(planned, debug_dirs)
        modules += live_modules((m for m in base if m.open_path not in known), debug_dirs)
        old = session.processes.get(pid)
        book = GraphBook(pid, modules, self._new_graph_id)
        decoder = Decoder(book.get, self._new_exec_ids)
        if old and stayed and old.book.layouts is not None:
            book, decoder = old.book, old.decoder
        elif old and stayed:
            decoder.waiting = old.decoder.waiting
        session.processes[pid] = Process(
            target, old.pidfd if old else _pidfd(pid), book, decoder,
            old.requests if old else Requests(pid),
            old.calls if old else Calls(session.probes.arguments, session.known_args),
            old.device if old and stayed else DeviceCalls(KernelNames(pid, debug_dirs), HostMemory(pid)),
            old.schedule if old else Schedule(pid, session.probes.thread_names, session.stacks),
            old.counters if old else ThreadCounters(pid),
            old.quota if old else QuotaCounts(pid),
            {(m.inode, m.mappings[0].start) for m in target.modules},
            [site for site in session.sites if site.pid == pid],
            threads=old.threads if old else {},
        )  # fmt: skip
        prepare_torch(session, session.processes[pid])
        process = session.processes[pid]
        process.calls.know_functions(process.device.know(process.sites))
        self._intake.know_sites()
        self._graphs.expect_layout(session.processes[pid])

    def look(self, now: float) -> None:
        """Has a target ended, loaded a library, or started another program?"""
        session = self._session
        poll = select.poll()
        for process in session.processes.values():
            if process.ended_ns is None:
                poll.register(process.pidfd, select.POLLIN)
        gone = {fd for fd, _ in poll.poll(0)}
        for pid, process in list(session.processes.items()):
            if process.ended_ns is not None:
                continue
            if process.pidfd in gone:
                process.ended_ns = now_ns()
                session.note(pid, "exit", "the process ended")
            else:
                self._look_at_modules(process, now)
                process.quota.look()
                if session.options.manifests:
                    process.counters.look()  # threads that end will be named
        if all(p.ended_ns is not None for p in session.processes.values()):
            session.stop("the target ended")
        elapsed, tokens = now - session.began, session.progress.tokens
        before, had = self._rate
        self._rate = (elapsed, tokens)
        session.progress.tokens_per_s = (tokens - had) / max(elapsed - before, 1e-9)
        session.progress.elapsed_s = elapsed
        session.progress.lost = session.probes.rings.drops

    def _look_at_modules(self, process: Process, now: float) -> None:
        try:
            size = code_size(process.target.pid)
            if size == process.code_size and now - process.code_read < SURE_S:
                return
            lines = executable_lines(process.target.pid)
        except FlowprofError:
            return
        process.code_size, process.code_read = size, now
        if lines == process.code:
            return
        process.code = lines
        modules = modules_in(process.target.pid, lines)
        fresh = [m for m in modules if (m.inode, m.mappings[0].start) not in process.seen]
        if not fresh:
            return
        planned = {s.module.inode for s in process.sites}
        stayed = any(m.inode in planned and (m.inode, m.mappings[0].start) in process.seen for m in modules)
        process.seen.update((m.inode, m.mappings[0].start) for m in fresh)
        known = any(m.inode in planned or holds_engine(m) for m in fresh)
        if known or self._is_named(fresh) or self._lacks_variables(process):
            self._plan_again(process, fresh, stayed)

    def _is_named(self, fresh: list[Module]) -> bool:
        """Whether a manifest's functions are to be looked for in one of these files."""
        wanted = [
            manifest.modules for manifest in self._session.options.manifests
            if any(one.function for resource in manifest.resources for one in resource.events)
            or any(one.function for one in manifest.variables)
        ]  # fmt: skip
        return any(not names or re.fullmatch(names, Path(m.path).name) for names in wanted for m in fresh)

    def _lacks_variables(self, process: Process) -> bool:
        """Whether a variable that is to be read now and then has not been found yet."""
        wanted = sum(not one.function for manifest in self._session.options.manifests for one in manifest.variables)
        return sum(one.pid == process.target.pid for one in self._session.plan.variables) < wanted

    def _plan_again(self, process: Process, fresh: list[Module], stayed: bool) -> None:
        """`fresh` files may hold an engine: probe what is new in them."""
        session = self._session
        first = session.next_site()
        try:
            target = open_target(process.target.pid)
            options = session.options
            known = engines(options.torch_ops)
            plan = make_plan([target], self._kernel, known, options.debug_dirs, first, options.manifests)
        except FlowprofError:
            return
        others = tuple(one for one in session.plan.variables if one.pid != target.pid)
        session.plan = replace(session.plan, variables=others + plan.variables)
        placed = {_place(site) for site in process.sites}
        missing = [site for site in plan.sites if _place(site) not in placed]
        ids = {site.site_id: first + i for i, site in enumerate(missing)}
        new = [replace(s, site_id=ids[s.site_id], entry_id=ids.get(s.entry_id, 0)) for s in missing]
        fresh_inodes = {m.inode for m in fresh}
        if not new and not any(s.module.inode in fresh_inodes for s in process.sites):
            return
        names = ", ".join(sorted({s.module.path for s in new}) or [target.exe])
        if why := no_room([*session.sites, *new]):
            session.note(target.pid, "not probed", f"{names}: with it there would be {why}")
            return
        session.note(target.pid, "load" if new else "exec", names)
        self._intake.take()
        self._intake.decode()  # with what is known of the graphs so far
        if not stayed:
            self._intake.settle(process)
            session.probes.forget_known()
        session.plan = Plan(
            session.plan.targets, session.plan.sites + tuple(new),
            tuple(x for x in session.plan.ladders if x.pid != target.pid) + plan.ladders,
            tuple(x for x in session.plan.modules if x[0].pid != target.pid) + plan.modules,
            session.plan.variables,
        )  # fmt: skip
        session.sites += new
        self.add_process(target, stayed)
        now_known = session.processes[target.pid]
        now_known.seen.update(process.seen)
        self._writer.write_rung()
        self._writer.write_modules(plan)
        usable = [site for site in new if not site.refused]
        session.probes.load(usable)
        session.probes.place_taps(*session.resources.know(usable))
        wanted = [site for site in usable if not session.resources.is_given_up(site)]
        session.probes.attach_always([site for site in wanted if site.level in ALWAYS])
        level = session.windows[-1].level if session.windows else "token"
        if session.options.budget is None and level != "token":
            session.probes.attach_deep(usable, level)  # no window will be opened that would
        if now_known.book.layouts is None:
            now_known.book.prepare()
        self._writer.write_sites(new)

    def _new_graph_id(self) -> int:
        self._next_graph += 1
        return self._next_graph

    def _new_exec_ids(self, count: int) -> int:
        first = self._next_exec
        self._next_exec += count
        return first


def _place(site: PlannedSite) -> tuple[object, ...]:
    return site.module.inode, site.offset, site.probe.id, site.probe.program


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise NotFoundError(f"process {pid} has ended") from error
