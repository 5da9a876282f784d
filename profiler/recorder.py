"""Record: execute a plan. Attach, read the rings, describe new graphs, cut windows, write batches. It analyses nothing.

One thread, one loop. What must be quick (a graph that nobody has described yet) wakes it; everything else is done a
few times a second, as every millisecond of ours is taken from a target that uses all processors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from flowprof.profiler import __version__, facts, host, kernel, ring
from flowprof.profiler.batch import Batch
from flowprof.profiler.decode import Decoded, Decoder, Window
from flowprof.profiler.describe import GraphDescription
from flowprof.profiler.errors import FlowprofError, NotFoundError
from flowprof.profiler.graphs import FINGERPRINT, GraphBook, graph_columns, live_modules, node_columns
from flowprof.profiler.plan import LEVELS, Plan, PlannedSite, holds_engine, make_plan
from flowprof.profiler.probes_in_place import DEEP, ProbesInPlace
from flowprof.profiler.requests import Requests
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.target import Target, modules_of, open_target, threads_of
from flowprof.profiler.windows import LONGEST_S, Controller, Seen

READ_S = 0.25  # the rings are read so often at least
FIRST_READ_S, SHORTEST_READ_S = 0.02, 0.005
FULL = 0.25  # of a ring: read oftener
WRITE_S = 1.0
DECODE_EVENTS = 100_000  # decoded together: a small part of the rings, so that these do not run full meanwhile
WRITE_ROWS = 245_760  # two of DuckDB's row groups: larger batches cost no less per row, smaller ones twice as much
LOOK_S = 0.5  # targets are looked at so often
TAIL_S = 0.02
SEES_ALL = "operator hook"  # the rung whose sites see every operator, fused ones by themselves
MIN_STEPS = 3  # decode steps before a window's speed says anything
MIN_CHECKED, MAX_STRANGERS = 500, 0.05  # operators before a verdict; share that may be no nodes of their graph
_NEVER = np.iinfo(np.int64).max
REQUEST_KINDS = (ring.REQUEST_POST, ring.REQUEST_RESULT, ring.REQUEST_DONE)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for. budget: allowed slow-down as a fraction, None for `--full`."""

    levels: tuple[str, ...] = LEVELS
    budget: float | None = 0.01
    duration_s: float | None = None
    max_events: int | None = None
    debug_dirs: tuple[str, ...] = ()
    ring_shift: int | None = None
    multi: bool | None = None
    look_s: float = LOOK_S
    command_line: str = ""
    release: Callable[[], None] = lambda: None  # called once the probes are in place: lets a held child go


@dataclass(slots=True)
class Progress:
    """Where the recording stands. tokens: rows of logits computed, that is tokens generated."""

    elapsed_s: float = 0.0
    events: int = 0
    tokens: int = 0
    graphs: int = 0
    lost: int = 0
    tokens_per_s: float = 0.0
    level: str = ""
    ended_because: str = ""
    first_event_s: float | None = None


@dataclass(slots=True)
class _Process:
    """One target while it is recorded."""

    target: Target
    pidfd: int
    book: GraphBook
    decoder: Decoder
    requests: Requests
    seen: set[tuple[int, int]]  # (inode, start) of every executable mapping looked at
    sites: list[PlannedSite]
    pending: list[np.ndarray] = field(default_factory=list)
    threads: dict[int, int] = field(default_factory=dict)
    placed: int = 0  # operators that are nodes of a described graph
    strangers: int = 0  # operators that are not
    distrusted: bool = False
    ended_ns: int | None = None


class Recorder:
    """Records one plan into one recording."""

    def __init__(
        self,
        plan: Plan,
        recording: Recording,
        options: Options,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._recording = recording
        self._on_progress = on_progress
        self._probes = ProbesInPlace(options.ring_shift, options.multi)
        self._kernel = kernel.version()
        self._sites: list[PlannedSite] = list(plan.sites)
        self._module_numbers: dict[tuple[int, int, str], int] = {}  # (pid, inode, engine) → module_id
        self._plan = plan
        self._processes: dict[int, _Process] = {}
        self._windows: list[Window] = []
        self._next_window = 0
        self._next_graph = 0
        self._next_exec = 0
        self._layout: object = None
        self._batch = Batch()
        self._written_at = self._read_at = self._looked_at = 0.0
        self._read_s = FIRST_READ_S
        self._hits: np.ndarray = np.zeros(1, np.int64)
        self._cost: dict[str, float] = {}
        self._drops = 0
        self._threads = float(os.cpu_count() or 1)
        self._busy_ns = 0  # time in graphs that the controller has not been told of
        self._op_events = 0
        self.progress = Progress()
        self._stop = ""
        self._end_ns: int | None = None
        self._rate = (0.0, 0)

    # -------------------------------------------------------------------- the loop

    def stop(self, why: str) -> None:
        """End the recording at the next turn of the loop (safe to call from a signal handler)."""
        self._stop = self._stop or why

    def run(self) -> Progress:
        """Attach and record until the time is up, the targets have ended, or `stop` is called. Always detaches.

        Raises BpfError, PermissionDeniedError when attaching fails; RecordingError when the file cannot be written.
        """
        began = time.monotonic()
        self._began = began
        try:
            self._begin()
            self._loop(time.monotonic())
        finally:
            if self._windows:  # before detaching, which can take seconds: what comes meanwhile does not count
                window = self._windows[-1]
                self._end_ns = window.end_ns = _now_ns()
                window.hits = int(self._hits_since().sum())
                window.drops = self._probes.rings.drops - self._drops
            self._probes.close()
        self._finish()
        return self.progress

    def _begin(self) -> None:
        """All that takes time comes first: from the first event on, graphs must be described while they are there."""
        for target in self._plan.targets:
            self._add_process(target)
        for process in self._processes.values():
            process.book.prepare()
        usable = [site for site in self._sites if not site.refused]
        self._probes.load(usable)
        cost, on_return = self._probes.measure_hit_cost(), self._probes.measure_hit_cost(is_return=True)
        self._cost = {
            "emulated": cost.cheap_ns,
            "single-stepped": cost.stepped_ns,
            "return": on_return.cheap_ns,
        }
        self._flush()
        self._written_at = time.monotonic()
        self._probes.attach_always([site for site in usable if site.level in ("token", "graph")])
        self._open_window("token")
        self._write_facts()
        self._write_modules(self._plan)
        self._recording.set_meta("cost_cheap_ns", round(cost.cheap_ns))
        self._recording.set_meta("cost_stepped_ns", round(cost.stepped_ns))
        self._write_sites(self._sites)
        self._options.release()  # only now would a new graph be described in time

    def _loop(self, began: float) -> None:
        options = self._options
        deep = self._deep_levels()
        controller = Controller(deep, options.budget)
        level, length = controller.next()
        deadline = time.monotonic() + (length if not deep or level == "token" else 0.0)
        while not self._stop:
            now = time.monotonic()
            end = began + options.duration_s if options.duration_s is not None else now + READ_S
            rang = self._probes.doorbell.wait(min(deadline, end, now + min(self._read_s, options.look_s)) - now)
            now = time.monotonic()
            if rang or now - self._read_at >= self._read_s or self._probes.rings.fill > FULL or now >= deadline:
                self._pace(self._probes.rings.fill)
                self._take()
                self._read_at = now
            if now >= deadline:
                level, deadline = self._turn(controller, now)
            due = now - self._written_at >= WRITE_S
            if due or sum(len(part) for p in self._processes.values() for part in p.pending) > DECODE_EVENTS:
                self._decode()
                if due or self._batch.rows > WRITE_ROWS:
                    self._take()  # writing takes a while
                    self._flush()
                    self._written_at = now
            look_s = LOOK_S if any(p.sites for p in self._processes.values()) else options.look_s
            if now - self._looked_at >= look_s:
                self._look(now)
                self._looked_at = now
            if options.duration_s is not None and now - began >= options.duration_s:
                self.stop("the time is up")
            if options.max_events is not None and self.progress.events >= options.max_events:
                self.stop(f"--max-events {options.max_events} reached")

    def _pace(self, fill: float) -> None:
        """Read so often that the fullest ring is rarely fuller than FULL, and no oftener."""
        if fill > FULL:
            self._read_s = max(self._read_s / 2, SHORTEST_READ_S)
        elif fill < FULL / 4:
            self._read_s = min(self._read_s * 1.5, READ_S)

    # -------------------------------------------------------------------- windows

    def _turn(self, controller: Controller, now: float) -> tuple[str, float]:
        """A window's time is up: account for it and open the next one, or stretch it."""
        window = self._windows[-1]
        self._decode()
        live = [p for p in self._processes.values() if p.ended_ns is None]
        running_since = min((p.decoder.horizon() for p in live), default=0)
        age = (_now_ns() - window.start_ns) / 1e9
        if not any(p.book.layouts is not None for p in live):
            return window.level, now + 0.05  # no graph has been seen: what would be recorded could not be read
        if window.level != "token" and self._options.budget is not None:
            idle = running_since == _NEVER
            if not window.graphs and (idle or age < LONGEST_S):
                return window.level, now + 0.05  # not one whole graph yet: an idle server, or a long prefill
            if not idle and running_since >= window.start_ns and age < LONGEST_S:
                return window.level, now + 0.002  # a graph that began here may end here
        self._close_window()
        step_s = window.steps_ns / window.steps / 1e9 if window.steps >= MIN_STEPS else None
        controller.ended(Seen(window.level, self._busy_ns / 1e9, self._spent(window), step_s))
        self._busy_ns = 0
        controller.levels = self._deep_levels()
        level, length = controller.next()
        self._open_window(level)
        return level, time.monotonic() + length

    def _deep_levels(self) -> tuple[str, ...]:
        """The levels that were asked for and can be attached: a thread's end of work is nothing without its start."""
        there = {site.level for site in self._sites if not site.refused}
        wanted = [level for level in ("op", "thread") if level in self._options.levels]
        return tuple(level for level in wanted if there.issuperset(DEEP[level]))

    def _open_window(self, level: str) -> None:
        if level != "token" and (not self._windows or self._windows[-1].level != level):
            trusted = [p for p in self._processes.values() if p.ended_ns is None and not p.distrusted]
            live = [site for p in trusted for site in p.sites]
            self._probes.attach_deep(live, level)
        self._hits = self._probes.site_hits(len(self._sites) + 1)
        self._drops = self._probes.rings.drops
        self._op_events = 0
        start = _now_ns()
        if self._windows and self._windows[-1].level == level and self._windows[-1].end_ns is not None:
            start = self._windows[-1].end_ns  # nothing was detached in between
        self._windows.append(Window(self._next_window, level, start))
        self._next_window += 1
        self.progress.level = level

    def _close_window(self) -> None:
        window = self._windows[-1]
        window.end_ns = _now_ns()
        keeps = self._options.budget is None and window.level != "token" and not self._stop
        if window.level != "token" and not keeps:
            self._probes.detach_deep()
        self._take()
        window.hits = int(self._hits_since().sum())
        window.drops = self._probes.rings.drops - self._drops

    def _hits_since(self) -> np.ndarray:
        """Hits per site in this window; sites of libraries that were loaded in it had none before."""
        hits = self._probes.site_hits(len(self._sites) + 1)
        hits[: len(self._hits)] -= self._hits
        return hits

    def _spent(self, window: Window) -> float:
        """Seconds that the window's probe hits took from each thread."""
        delta = self._hits_since()
        spent = 0.0
        op_hits = 0
        for site in self._sites:
            if site.site_id < len(delta):
                spent += float(delta[site.site_id]) * self._cost.get(site.cost_class, 0.0)
                op_hits += int(delta[site.site_id]) if site.level == "op" else 0
        known = max((len(p.threads) for p in self._processes.values()), default=0)
        if window.level == "thread" and known:
            self._threads = float(known)
        elif window.level == "op" and self._op_events:
            self._threads = max(1.0, op_hits / self._op_events)
        return spent / 1e9 / max(self._threads, 1.0)

    # -------------------------------------------------------------------- events

    def _take(self) -> None:
        """Read the rings, hand events to their processes, describe graphs that are new."""
        events = self._probes.rings.read()
        calls = events["kind"] == ring.CALL  # of the measurement of a hit's cost
        if calls.any():
            events = events[~calls]
        if self._end_ns is not None:  # graphs that began before the end may still end
            events = events[(events["at_ns"] <= self._end_ns) | (events["kind"] == ring.GRAPH_END)]
        if not len(events):
            return
        if self.progress.first_event_s is None:
            self.progress.first_event_s = time.monotonic() - self._began
        self.progress.events += len(events)
        pids = self._pid_of_site[np.minimum(events["site"], len(self._pid_of_site) - 1)]
        self._op_events += int((events["kind"] == ring.OP).sum())
        for pid, process in self._processes.items():
            mine = events[pids == pid] if len(self._processes) > 1 else events
            if not len(mine):
                continue
            asked = np.isin(mine["kind"], REQUEST_KINDS)
            if asked.any():
                process.requests.add(np.sort(mine[asked], order="at_ns"))
                mine = mine[~asked]
            self._describe_new(process, mine)
            process.pending.append(mine)

    def _describe_new(self, process: _Process, events: np.ndarray) -> None:
        begins = events[events["kind"] == ring.GRAPH_BEGIN]
        if not len(begins):
            return
        newest = begins[np.argmax(begins["at_ns"])]
        if process.book.layouts is None:
            if not process.book.resolve(int(newest["a"])) or not self._adopt_layout(process, events):
                return
            begins = events[events["kind"] == ring.GRAPH_BEGIN]
        begins = begins[np.lexsort((begins["at_ns"], begins["a"]))]
        last = np.append(begins["a"][1:] != begins["a"][:-1], True)  # what was there before is there no more
        for key, cgraph in begins[last][["b", "a"]].tolist():
            if key and not process.book.is_described(key):
                self._describe(process, key, cgraph)

    def _describe(self, process: _Process, key: int, cgraph: int) -> None:
        found = process.book.describe(key, cgraph)
        if found is None:
            return
        graph, description = found
        if key & FINGERPRINT and process.book.layouts is not None:
            watched = process.book.watched_node(description)
            if watched and watched != process.book.watched:
                process.book.watched = watched
                self._probes.set_layout(process.book.layouts, watched)  # keys change: graphs will be described again
        for site in process.sites:
            if site.probe.program == "graph_begin":
                self._probes.set_known(key, site.site_id)
        self._write_graph(process, key, graph.graph_id, description)

    def _expect_layout(self, process: _Process) -> None:
        """Before the first graph: let the programs read through the layout that is most probable."""
        expected = process.book.expected()
        if expected is not None and self._layout is None:
            self._layout = (expected.graph, expected.params, expected.tensor.ne)
            self._probes.set_layout(expected)

    def _adopt_layout(self, process: _Process, events: np.ndarray) -> bool:
        """A live graph has shown the layout: keys read through another one are worth nothing."""
        layouts = process.book.layouts
        if layouts is None:
            return False
        wanted = (layouts.graph, layouts.params, layouts.tensor.ne)
        if self._layout != wanted:
            if any(p.book.layouts is not None for p in self._processes.values() if p is not process):
                process.book.trouble = "its build's struct layouts differ from the first target's: record it on its own"
                process.book.layouts = None
                return False
            for part in (events, *process.pending):
                part["b"][part["kind"] == ring.GRAPH_BEGIN] = 0
            self._layout = wanted
            self._probes.set_layout(layouts)
        self._recording.set_meta("layout", layouts.version)
        return True

    def _decode(self, final: bool = False) -> None:
        if self._windows[-1].end_ns is None:
            self._windows[-1].drops = self._probes.rings.drops - self._drops  # graphs with lost operators do not count
        for process in self._processes.values():
            if not process.pending and not len(process.decoder.waiting):
                continue
            events = np.concatenate(process.pending) if process.pending else np.empty(0, ring.EVENT)
            process.pending.clear()
            decoded = process.decoder.decode(events, self._windows, final)
            self._queue_decoded(process, decoded)

    def _queue_decoded(self, process: _Process, decoded: Decoded) -> None:
        pid = process.target.pid
        if decoded.graph_exec:
            self._batch.put("graph_exec", {**decoded.graph_exec, "pid": pid})
            for graph_id in np.unique(np.asarray(decoded.graph_exec["graph_id"])).tolist():
                self._write_undescribed(process, int(graph_id))
        if decoded.op_exec:
            self._batch.put("op_exec", dict(decoded.op_exec))
        process.threads.update(decoded.thread_index)
        self._busy_ns += decoded.busy_ns
        process.placed += len(decoded.op_exec.get("exec_id", ()))
        process.strangers += decoded.strangers
        self._self_check(process)
        self.progress.graphs += decoded.graphs
        self.progress.tokens += decoded.outputs
        window_id = self._windows[-1].window_id
        for place, count in (
            ("undescribed_graph", decoded.undescribed),
            ("unmatched_op", decoded.unmatched),
            ("incomplete_graph", decoded.incomplete),
        ):
            if count:
                self._batch.put("loss", {"window_id": [window_id], "place": [place], "events": [count]})

    def _self_check(self, process: _Process) -> None:
        """A probe site that was guessed (from the call graph, say) must hand over nodes of the live graphs."""
        seen = process.placed + process.strangers
        if process.distrusted or seen < MIN_CHECKED or process.strangers <= MAX_STRANGERS * seen:
            return
        process.distrusted = True
        pid = process.target.pid
        why = f"{process.strangers} of {seen} operators are no nodes of the graphs that ran: their probes are given up"
        self._note(pid, "self-check failed", why)
        rungs = self._recording.meta().get("rung", "")
        self._recording.set_meta("rung", f"{rungs}; but the self-check failed in {pid}: graph level only")

    # -------------------------------------------------------------------- targets

    def _add_process(self, target: Target, stayed: bool = False) -> None:
        """Begin with a target, or go on with one that started another program or (`stayed`) loaded a library."""
        pid = target.pid
        modules = live_modules((m for m, _, _ in self._plan.modules if m.pid == pid), self._options.debug_dirs)
        base = target.with_marker(b"ggml_op_name")  # the names may lie in a library of their own
        known = {m.open_path for m, _, _ in self._plan.modules if m.pid == pid}
        modules += live_modules((m for m in base if m.open_path not in known), self._options.debug_dirs)
        old = self._processes.get(pid)
        book = GraphBook(pid, modules, self._new_graph_id)
        decoder = Decoder(book.get, self._new_exec_ids)
        if old and stayed and old.book.layouts is not None:
            book, decoder = old.book, old.decoder
        elif old and stayed:
            decoder.waiting = old.decoder.waiting
        self._processes[pid] = _Process(
            target, old.pidfd if old else _pidfd(pid), book, decoder,
            old.requests if old else Requests(pid),
            {(m.inode, m.mappings[0].start) for m in target.modules},
            [site for site in self._sites if site.pid == pid],
            threads=old.threads if old else {},
        )  # fmt: skip
        self._pid_of_site = np.zeros(max((s.site_id for s in self._sites), default=0) + 2, np.int64)
        for site in self._sites:
            self._pid_of_site[site.site_id] = site.pid
        self._expect_layout(self._processes[pid])

    def _look(self, now: float) -> None:
        """Has a target ended, loaded a library, or started another program?"""
        import select

        poll = select.poll()
        for process in self._processes.values():
            if process.ended_ns is None:
                poll.register(process.pidfd, select.POLLIN)
        gone = {fd for fd, _ in poll.poll(0)}
        for pid, process in list(self._processes.items()):
            if process.ended_ns is not None:
                continue
            if process.pidfd in gone:
                process.ended_ns = _now_ns()
                self._note(pid, "exit", "the process ended")
            else:
                self._look_at_modules(process)
        if all(p.ended_ns is not None for p in self._processes.values()):
            self.stop("the target ended")
        elapsed, tokens = now - self._began, self.progress.tokens
        before, had = self._rate
        self.progress.tokens_per_s = (tokens - had) / max(elapsed - before, 1e-9)
        self._rate = (elapsed, tokens)
        self.progress.elapsed_s = elapsed
        self.progress.lost = self._probes.rings.drops
        self._on_progress(self.progress)

    def _look_at_modules(self, process: _Process) -> None:
        try:
            modules = modules_of(process.target.pid)
        except FlowprofError:
            return
        fresh = [m for m in modules if (m.inode, m.mappings[0].start) not in process.seen]
        if not fresh:
            return
        planned = {s.module.inode for s in process.sites}
        stayed = any(m.inode in planned and (m.inode, m.mappings[0].start) in process.seen for m in modules)
        process.seen.update((m.inode, m.mappings[0].start) for m in fresh)
        if not any(m.inode in planned or holds_engine(m) for m in fresh):
            return
        try:
            target = open_target(process.target.pid)
            plan = make_plan([target], self._kernel, debug_dirs=self._options.debug_dirs, first_site=self._next_site())
        except FlowprofError:
            return
        placed = {(s.module.inode, s.offset, s.probe.id, s.probe.program) for s in process.sites}
        new = [s for s in plan.sites if (s.module.inode, s.offset, s.probe.id, s.probe.program) not in placed]
        new = [replace(s, site_id=self._next_site() + i) for i, s in enumerate(new)]
        fresh_inodes = {m.inode for m in fresh}
        if not new and not any(s.module.inode in fresh_inodes for s in process.sites):
            return
        names = ", ".join(sorted({s.module.path for s in new}) or [target.exe])
        self._note(target.pid, "load" if new else "exec", names)
        self._take()
        self._decode()  # with what is known of the graphs so far
        if not stayed:
            nothing = np.empty(0, ring.EVENT)
            self._queue_decoded(process, process.decoder.decode(nothing, self._windows, final=True))
            self._probes.forget_known()
        self._plan = Plan(
            self._plan.targets, self._plan.sites + tuple(new),
            tuple(x for x in self._plan.ladders if x.pid != target.pid) + plan.ladders,
            tuple(x for x in self._plan.modules if x[0].pid != target.pid) + plan.modules,
        )  # fmt: skip
        self._sites += new
        self._add_process(target, stayed)
        self._processes[target.pid].seen.update(process.seen)
        self._write_rung()
        self._write_modules(plan)
        usable = [site for site in new if not site.refused]
        self._probes.load(usable)
        self._probes.attach_always([site for site in usable if site.level in ("token", "graph")])
        if self._processes[target.pid].book.layouts is None:
            self._processes[target.pid].book.prepare()
        self._write_sites(new)

    def _next_site(self) -> int:
        return max((s.site_id for s in self._sites), default=0) + 1

    def _new_graph_id(self) -> int:
        self._next_graph += 1
        return self._next_graph

    def _new_exec_ids(self, count: int) -> int:
        first = self._next_exec
        self._next_exec += count
        return first

    # -------------------------------------------------------------------- writing

    def _note(self, pid: int, what: str, detail: str) -> None:
        self._batch.put("event_note", {"at_ns": [_now_ns()], "pid": [pid], "what": [what], "detail": [detail]})

    def _write_graph(self, process: _Process, key: int, graph_id: int, d: GraphDescription) -> None:
        self._batch.put("graph", graph_columns(graph_id, process.target.pid, key, d))
        self._batch.put("graph_node", node_columns(graph_id, d))
        if not process.book.model_written and d.model.parameters:
            process.book.model_written = True
            self._batch.put("model", facts.model_columns(process.target.pid, d.model))

    def _write_undescribed(self, process: _Process, graph_id: int) -> None:
        key = process.book.undescribed_key(graph_id)
        if key is not None:
            self._batch.put("graph", graph_columns(graph_id, process.target.pid, key, None))

    def _flush(self, final: bool = False) -> None:
        """One transaction with everything that is queued, the finished windows and requests."""
        settled = list(self._windows) if final else [w for w in self._windows[:-1] if w.end_ns is not None]
        for process in self._processes.values():
            done = process.requests.take(final)
            if done["pid"]:
                self._batch.put("request", done)  # type: ignore[arg-type]
        horizon = min((p.decoder.horizon() for p in self._processes.values()), default=0)
        for window in settled:
            if final or (window.end_ns is not None and window.end_ns < horizon):
                self._batch.put("probe_window", facts.window_columns(window))
                if window.drops:
                    lost = {"window_id": [window.window_id], "place": ["ring"], "events": [window.drops]}
                    self._batch.put("loss", lost)
                if window is not self._windows[-1]:
                    self._windows.remove(window)
        self._batch.write(self._recording)

    def _write_facts(self) -> None:
        meta = {
            **host.facts(),
            "flowprof_version": __version__,
            "command_line": self._options.command_line,
            "levels": ",".join(self._options.levels),
            "budget": "" if self._options.budget is None else str(self._options.budget),
            "full": "yes" if self._options.budget is None else "no",
            "attach": "uprobe_multi" if self._probes.multi else "perf_event",
            "started_ns": self._windows[0].start_ns,
            "started_unix_ns": time.time_ns(),
        }
        for key, value in meta.items():
            self._recording.set_meta(key, value)
        self._write_rung()
        for target in self._plan.targets:
            self._batch.put("process", facts.process_columns(target, _now_ns()))

    def _write_rung(self) -> None:
        rung, missing = facts.rung(self._plan, self._options.levels)
        self._recording.set_meta("rung", rung)
        self._recording.set_meta("rung_reason", missing)

    def _write_modules(self, plan: Plan) -> None:
        for module, engine, build_id in plan.modules:
            key = (module.pid, module.inode, engine)
            if key not in self._module_numbers:
                number = self._module_numbers[key] = len(self._module_numbers) + 1
                version = self._processes[module.pid].book.version if engine == "ggml" else None
                self._batch.put("module", facts.module_columns(number, module, engine, build_id, version))

    def _write_sites(self, sites: Sequence[PlannedSite]) -> None:
        for site in sites:
            module_id = self._module_numbers.get((site.pid, site.module.inode, site.engine))
            cost_ns = self._cost.get(site.cost_class)
            self._batch.put("probe_site", facts.site_columns(site, module_id, cost_ns, self._options.levels))

    def _finish(self) -> None:
        """The last batch: what the rings still hold, windows, hits, threads, and the word that the end was clean."""
        time.sleep(TAIL_S)  # an event may be half written
        self._take()
        self._decode(final=True)
        if self._probes.thread_table_full:
            lost = self._probes.thread_table_full
            window_id = self._windows[-1].window_id
            self._batch.put("loss", {"window_id": [window_id], "place": ["thread_table"], "events": [lost]})
        for pid, process in self._processes.items():
            names = dict.fromkeys(process.threads, "") | threads_of(pid)
            self._batch.put("thread", {
                "pid": [pid] * len(names), "tid": list(names), "comm": list(names.values()),
                "ith": [process.threads.get(t) for t in names],
            })  # fmt: skip
            if process.book.trouble and process.book.layouts is None and self.progress.graphs:
                self._note(pid, "layout unknown", process.book.trouble)
        self._flush(final=True)
        hits = self._probes.site_hits(len(self._sites) + 1)
        with self._recording.batch():
            for site in self._sites:
                if not site.refused:
                    self._recording.execute(
                        "UPDATE probe_site SET hits = ? WHERE site_id = ?", [int(hits[site.site_id]), site.site_id]
                    )
            for pid, process in self._processes.items():
                self._recording.execute(  # the program may be another one than at the start
                    "UPDATE process SET ended_ns = ?, exe = ?, cmdline = ? WHERE pid = ?",
                    [process.ended_ns, process.target.exe, process.target.cmdline[: facts.MAX_CMDLINE], pid],
                )
            if all(self._plan.rung(pid, "op") == SEES_ALL for pid in self._processes):
                # On the other rungs a node that was not seen may have run all the same: nothing follows from it.
                self._recording.execute(read_sql("settle_fused.sql"))
                self._recording.execute(read_sql("count_operators.sql"))
            for key, value in (
                ("stopped_ns", _now_ns()), ("stopped_unix_ns", time.time_ns()),
                ("ended_because", self._stop), ("clean_end", "yes"),
            ):  # fmt: skip
                self._recording.set_meta(key, value)
        self.progress.lost = self._probes.rings.drops
        self.progress.elapsed_s = time.monotonic() - self._began
        self.progress.ended_because = self._stop


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise NotFoundError(f"process {pid} has ended") from error


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
