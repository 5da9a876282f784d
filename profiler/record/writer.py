"""Write what a session knows into its recording: facts, sites, graphs, and the batches that have come together."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from flowprof.profiler import __version__
from flowprof.profiler.binaries.module_elf import open_elf
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.ggml.build_instructions import built_for
from flowprof.profiler.ggml.describe import GraphDescription
from flowprof.profiler.ggml.graphs import graph_columns, node_columns
from flowprof.profiler.machine import ceilings, ceilings_file, host
from flowprof.profiler.machine.neighbours import Neighbour
from flowprof.profiler.planning.plan import Plan
from flowprof.profiler.planning.planned_site import PlannedSite
from flowprof.profiler.record import facts
from flowprof.profiler.record.open_waits import open_waits
from flowprof.profiler.record.session import Process, Session, now_ns
from flowprof.profiler.store import read_sql
from flowprof.profiler.target import Module, threads_of

SEES_ALL = "operator hook"  # the rung whose sites see every operator, fused ones by themselves


class Writer:
    """Rows of one session. What is no event is queued in its batch; `flush` writes that."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._module_numbers: dict[tuple[int, int, str], int] = {}  # (pid, inode, engine) → module_id

    def write_facts(self) -> None:
        """Who records whom, where, and how."""
        session = self._session
        options = session.options
        meta = {
            **host.facts(facts.allowed([target.pid for target in session.plan.targets])),
            "flowprof_version": __version__,
            "command_line": options.command_line,
            "levels": ",".join(options.levels),
            "budget": "" if options.budget is None else str(options.budget),
            "full": "yes" if options.budget is None else "no",
            "attach": "uprobe_multi" if session.probes.multi else "perf_event",
            "recorder_pid": os.getpid(),
            "started_ns": session.windows[0].start_ns,
            "started_unix_ns": time.time_ns(),
        }
        for key, value in meta.items():
            session.recording.set_meta(key, value)
        self.write_rung()
        resources = session.resources.resource_columns()
        if resources["resource_id"]:
            session.batch.put("resource", resources)
        known = ceilings_file.cached()
        if known is not None:
            session.batch.put("ceiling", ceilings.rows(ceilings_file.doubted(known)))
        for target in session.plan.targets:
            session.batch.put("process", facts.process_columns(target, now_ns()))

    def write_rung(self) -> None:
        """On which rung of the ladders the targets stand."""
        rung, missing = facts.rung(self._session.plan, self._session.options.levels)
        self._session.recording.set_meta("rung", rung)
        self._session.recording.set_meta("rung_reason", missing)

    def write_modules(self, plan: Plan) -> None:
        """The files that hold an engine, each once."""
        for module, engine, build_id in plan.modules:
            key = (module.pid, module.inode, engine)
            if key not in self._module_numbers:
                number = self._module_numbers[key] = len(self._module_numbers) + 1
                process = self._session.processes[module.pid]
                version = process.book.version if engine == "ggml" else process.engine_versions.get(engine)
                sets = self._built_for(module) if engine == "ggml" else None
                row = facts.module_columns(number, module, engine, build_id, version, sets)
                self._session.batch.put("module", row)

    def _built_for(self, module: Module) -> tuple[str, ...] | None:
        try:
            return built_for(open_elf(module, self._session.options.debug_dirs))
        except FlowprofError:
            return None  # replaced or gone since it was planned

    def write_sites(self, sites: Sequence[PlannedSite]) -> None:
        """Probe sites, refused ones as well."""
        session = self._session
        for site in sites:
            module_id = self._module_numbers.get((site.pid, site.module.inode, site.engine))
            cost_ns = session.hit_cost_ns(site)
            session.batch.put("probe_site", facts.site_columns(site, module_id, cost_ns, session.options.levels))

    def write_graph(self, process: Process, key: int, graph_id: int, d: GraphDescription) -> None:
        """A graph that is new, its nodes, and once the model that they show."""
        batch, pid = self._session.batch, process.target.pid
        batch.put("graph", graph_columns(graph_id, pid, key, d))
        batch.put("graph_node", node_columns(graph_id, d))
        if not process.book.model_written and d.model.parameters:
            process.book.model_written = True
            batch.put("model", facts.model_columns(pid, d.model))

    def write_undescribed(self, process: Process, graph_id: int) -> None:
        """A graph that came and went before it could be read."""
        key = process.book.undescribed_key(graph_id)
        if key is not None:
            self._session.batch.put("graph", graph_columns(graph_id, process.target.pid, key, None))

    def flush(self, final: bool = False) -> None:
        """One transaction with everything that is queued, the finished windows and requests."""
        session = self._session
        settled = list(session.windows) if final else [w for w in session.windows[:-1] if w.end_ns is not None]
        for process in session.processes.values():
            process.counters.look()  # now and then: a process that ends takes them with it
            done = process.requests.take(final)
            if done["pid"]:
                session.batch.put("request", done)
        variables = session.resources.new_variables()
        if variables["variable_id"]:
            session.batch.put("variable", variables)
        horizon = min((p.decoder.horizon() for p in session.processes.values()), default=0)
        for window in settled:
            if final or (window.end_ns is not None and window.end_ns < horizon):
                session.batch.put("probe_window", facts.window_columns(window))
                if window.drops:
                    lost = {"window_id": [window.window_id], "place": ["ring"], "events": [window.drops]}
                    session.batch.put("loss", lost)
                if window is not session.windows[-1]:
                    session.windows.remove(window)
        session.batch.write(session.recording)

    def write_until(self, resource: int, at_ns: int) -> None:
        """From now on this resource's events are not recorded."""
        self.flush()
        self._session.recording.execute("UPDATE resource SET until_ns = ? WHERE resource_id = ?", [at_ns, resource])

    def write_open_waits(self) -> None:
        """Where threads wait that have not come back; as long as the probes are in place."""
        session = self._session
        for pid, process in session.processes.items():
            if process.ended_ns is None:
                session.batch.put("open_wait", open_waits(pid, session.stacks, session.probes.away_since))

    def finish(self, neighbours: Sequence[Neighbour], machine: Mapping[str, str]) -> None:
        """The last batch: windows, hits, threads, and the word that the end was clean. The probes are detached."""
        session = self._session
        self._queue_last_losses()
        for process in session.processes.values():
            self._queue_threads(process)
            if process.book.trouble and process.book.layouts is None and session.progress.graphs:
                session.note(process.target.pid, "layout unknown", process.book.trouble)
        if neighbours:
            leave_out = {os.getpid(), *session.processes}
            session.batch.put("neighbour", facts.neighbour_columns(neighbours, leave_out))
        self.flush(final=True)
        self._write_stacks()
        hits = session.probes.site_hits(session.next_site())
        recording = session.recording
        with recording.batch():
            for site_id in (*(s.site_id for s in session.sites if not s.refused), *session.sched_sites.values()):
                recording.execute("UPDATE probe_site SET hits = ? WHERE site_id = ?", [int(hits[site_id]), site_id])
            for number, events in session.resources.events_seen().items():  # libraries may have been loaded meanwhile
                recording.execute("UPDATE resource SET events = ? WHERE resource_id = ?", [events, number])
            for pid, process in session.processes.items():
                recording.execute(  # the program may be another one than at the start
                    "UPDATE process SET ended_ns = ?, exe = ?, cmdline = ? WHERE pid = ?",
                    [process.ended_ns, process.target.exe, process.target.cmdline[: facts.MAX_CMDLINE], pid],
                )
            if all(session.plan.rung(pid, "op") == SEES_ALL for pid in session.processes):
                # On the other rungs a node that was not seen may have run all the same: nothing follows from it.
                recording.execute(read_sql("settle_fused.sql"))
                recording.execute(read_sql("count_operators.sql"))
            stopped = session.end_ns or now_ns()  # it was over when the probes were detached
            for key, value in (
                ("stopped_ns", stopped), ("stopped_unix_ns", time.time_ns() - (now_ns() - stopped)),
                ("ended_because", session.stopped), *machine.items(), ("clean_end", "yes"),
            ):  # fmt: skip
                recording.set_meta(key, value)

    def _write_stacks(self) -> None:
        """Last, for it takes a while and needs no probe; of what has ended meanwhile only the files are needed."""
        session = self._session
        sites = {site.site_id: site for site in session.sites}
        modules = {pid: process.target.modules for pid, process in session.processes.items()}
        columns = session.stacks.columns(sites, modules)
        if columns["stack_id"]:
            session.recording.append("stack", columns)

    def _queue_last_losses(self) -> None:
        session = self._session
        unread, no_room = session.probes.resource_losses
        for place, lost in (
            ("resource_value", unread), ("resource_frame", no_room), ("resource_instance", session.resources.unknown),
            ("stack", session.stacks.left),
            ("requests", sum(process.requests.dropped for process in session.processes.values())),
            ("thread_table", session.probes.thread_table_full), ("expert_ids", session.probes.expert_ids_left),
            ("batch_tokens", session.probes.batch_tokens_left),
            ("passed_over", session.probes.passed_over), ("unseen_return", session.probes.unseen_returns),
            ("calls", session.probes.calls_not_kept),
            ("counters", session.probes.counters.spoiled if session.probes.counters else 0),
        ):  # fmt: skip
            if lost:
                window_id = session.windows[-1].window_id
                session.batch.put("loss", {"window_id": [window_id], "place": [place], "events": [lost]})

    def _queue_threads(self, process: Process) -> None:
        for counts in (process.counters, process.quota):
            counts.look()
            self._session.batch.put("counter", counts.columns())
        self._session.batch.put("other_thread", process.schedule.other_threads())
        there = threads_of(process.target.pid)
        names = process.counters.names  # of threads that have ended, too
        tids = list(dict.fromkeys((*process.threads, *names, *there)))
        found = [there.get(tid, (names.get(tid, ""), None)) for tid in tids]
        self._session.batch.put("thread", {
            "pid": [process.target.pid] * len(tids), "tid": tids, "comm": [comm for comm, _ in found],
            "ith": [process.threads.get(tid) for tid in tids], "cpus": [cpus for _, cpus in found],
        })  # fmt: skip
