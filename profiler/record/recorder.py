"""Record: execute a plan. Attach, then read the rings, describe new graphs, cut windows and write batches, in turn.

One thread, one loop. What must be quick (a graph that nobody has described yet) wakes it; everything else is done
twice a second or less, as every millisecond of ours is taken from a target that uses all processors, and no priority
helps: lower, and such a target leaves nothing. It analyses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flowprof.probes.sched import SCHED
from flowprof.profiler.errors import BpfError
from flowprof.profiler.kernel_side import heap
from flowprof.profiler.kernel_side.probes_in_place import ALWAYS, ProbesInPlace
from flowprof.profiler.machine.meanwhile import Meanwhile
from flowprof.profiler.machine.neighbours import Neighbours
from flowprof.profiler.planning.plan import Plan
from flowprof.profiler.record import facts
from flowprof.profiler.record.allowance import Allowance
from flowprof.profiler.record.follow import Follower
from flowprof.profiler.record.intake import Intake
from flowprof.profiler.record.live_graphs import LiveGraphs
from flowprof.profiler.record.options import LOOK_S, Options
from flowprof.profiler.record.probe_windows import ProbeWindows
from flowprof.profiler.record.session import Progress, Session, now_ns
from flowprof.profiler.record.stacks import Stacks
from flowprof.profiler.record.windows import Controller
from flowprof.profiler.record.writer import Writer
from flowprof.profiler.resources.events import ResourceEvents
from flowprof.profiler.resources.sampler import Sampled, Sampler, read_once
from flowprof.profiler.store import Recording

__all__ = ["Progress", "Recorder"]

READ_S = 1.0  # the rings are read so often at least
SHORTEST_READ_S = 0.005
FASTEST_NS = 500.0  # between two events of one processor: what the quickest probe hit takes
FULL = 0.25  # of a ring: read oftener
WRITE_S = 5.0  # rows wait so long for the next transaction, and longer where that would cost more than WRITE_SHARE of
WRITE_SHARE = 0.001  # a processor: twenty inserts of a few rows take 20 ms
LONGEST_WRITE_S = 20.0
DECODE_EVENTS = 100_000  # decoded together: a small part of the rings, so that these do not run full meanwhile
WRITE_ROWS = 245_760  # two of DuckDB's row groups: larger batches cost no less per row, smaller ones twice as much
TAIL_S = 0.02


class Recorder:
    """Records one plan into one recording."""

    def __init__(
        self,
        plan: Plan,
        recording: Recording,
        options: Options,
        on_progress: Callable[[Progress], None] = lambda _: None,
        probes: ProbesInPlace | None = None,
    ) -> None:
        self._options = options
        self._on_progress = on_progress
        self._probes = probes or ProbesInPlace.of(options, plan.engines())
        stacks = Stacks(self._probes.stacks)
        resources = ResourceEvents(options.manifests, stacks)
        self.session = session = Session(options, plan, recording, self._probes, list(plan.sites), resources, stacks)
        self._writer = Writer(session)
        self._graphs = LiveGraphs(session, self._writer)
        self._intake = Intake(session, self._graphs, self._writer)
        self._windows = ProbeWindows(session, self._intake)
        self._follower = Follower(session, self._intake, self._graphs, self._writer)
        self._neighbours: Neighbours | None = None
        self._machine: Meanwhile | None = None
        self._sampler = Sampler(())
        self._written_at = self._read_at = self._looked_at = 0.0
        self._first_read_s = max(self._probes.rings.size * FULL * FASTEST_NS / 1e9, SHORTEST_READ_S)
        self._read_s = self._first_read_s
        self._write_s = WRITE_S
        self._reads_s: dict[str, float] = {}  # how long the rings take to fill at each level

    @property
    def progress(self) -> Progress:
        """Where the recording stands."""
        return self.session.progress

    def stop(self, why: str) -> None:
        """End the recording now (safe to call from a signal handler, and from another thread)."""
        self.session.stop(why)
        self._probes.doorbell.wake()

    def run(self) -> Progress:
        """Attach and record until the time is up, the targets have ended, or `stop` is called. Always detaches.

        Raises BpfError, PermissionDeniedError when attaching fails; RecordingError when the file cannot be written.
        """
        self.session.began = time.monotonic()
        try:
            try:
                self._begin()
                self._loop(time.monotonic())
            finally:
                if self.session.windows:  # before detaching, which takes a while: what comes then does not count
                    self._windows.close_last()
                    self._writer.write_open_waits()
                self._probes.detach()
            self._finish()
        finally:
            self._probes.close()
        return self.progress

    def _begin(self) -> None:
        """All that takes time comes first: from the first event on, graphs must be described while they are there."""
        session, writer = self.session, self._writer
        for target in session.plan.targets:
            self._follower.add_process(target)
        for process in session.processes.values():
            process.book.prepare()
        self._sampler = Sampler(self._variables())
        usable = [site for site in session.sites if not site.refused]
        self._probes.load(usable)
        cost, on_return = self._probes.measure_hit_cost(), self._probes.measure_hit_cost(is_return=True)
        session.cost_ns = {
            "emulated": cost.cheap_ns,
            "single-stepped": cost.stepped_ns,
            "return": on_return.cheap_ns,
        }
        heap.give_back()
        writer.flush()
        self._written_at = time.monotonic()
        self._probes.place_taps(*session.resources.know(usable))
        self._probes.attach_always([site for site in usable if site.level in ALWAYS])
        if "sched" in self._options.levels:
            self._attach_sched()
            self._neighbours = Neighbours()
        pids = [target.pid for target in session.plan.targets]
        self._machine = Meanwhile(pids, facts.allowed(pids) or ())
        if self._probes.counters:
            for key, value in self._probes.counters.facts().items():
                session.recording.set_meta(key, value)
        self._windows.open("token")
        for one in session.plan.capacities:
            read = read_once(one.pid, one.way)
            if read is not None and read > 0:
                session.resources.capacities.setdefault((one.manifest, one.resource), int(read))
        writer.write_facts()
        writer.write_modules(session.plan)
        session.recording.set_meta("cost_cheap_ns", round(cost.cheap_ns))
        session.recording.set_meta("cost_stepped_ns", round(cost.stepped_ns))
        writer.write_sites(session.sites)
        self._options.release()  # only now would a new graph be described in time

    def _variables(self) -> list[Sampled]:
        """Those of the plan."""
        number = self.session.resources.number_of
        return [
            Sampled(one.pid, number(one.variable.name, one.variable.expression, one.way), one.way,
                    one.variable.period_ms / 1000)
            for one in self.session.plan.variables
        ]  # fmt: skip

    def _attach_sched(self) -> None:
        """The scheduler's events are on all the time: a stall outside the deep windows counts, too."""
        session = self.session
        first = session.next_site()
        session.sched_sites = {event.id: first + i for i, event in enumerate(SCHED)}
        for pid in session.processes:
            self._probes.trace(pid)
        refused = self._probes.attach_sched(session.sched_sites)
        for event in SCHED:
            row = facts.kernel_site_columns(session.sched_sites[event.id], event, refused.get(event.id, ""))
            session.batch.put("probe_site", row)
        session.recording.set_meta("sched", "no: " + "; ".join(refused.values()) if refused else "yes")
        why = "; ".join(dict.fromkeys(refused.values()))
        if refused:
            session.note(0, "scheduler not seen", f"what threads waited for is not known: {why}")
        if refused and self._probes.counters:
            raise BpfError(f"counters per operator need the scheduler's events: {why}", "flowprof doctor")
        session.recording.set_meta("interrupts", ",".join(self._probes.interrupts_seen))
        if not refused and not self._probes.interrupts_seen:
            session.note(0, "interrupts not seen", "who woke a thread may be whoever was interrupted at that moment")

    def _loop(self, began: float) -> None:
        session, options, intake, rings = self.session, self._options, self._intake, self._probes.rings
        deep = self._windows.deep_levels()
        controller = Controller(deep, options.budget)
        level, length = controller.next()
        self._read_at = time.monotonic()
        deadline = self._read_at + (length if not deep or level == "token" else 0.0)
        allowance = Allowance(session, intake, self._writer)
        while not session.stopped:
            now = time.monotonic()
            end = began + options.duration_s if options.duration_s is not None else now + READ_S
            wait_s = self._sampler.wait_s(now, min(self._read_s, options.look_s))
            rang = self._probes.doorbell.wait(min(deadline, end, now + wait_s) - now)
            now = time.monotonic()
            sampled = self._sampler.take(now, now_ns())
            if sampled is not None:
                session.batch.put("variable_sample", sampled)
            if rang or now - self._read_at >= self._read_s or rings.fill > FULL or now >= deadline:
                self._pace(rings.fill, now - self._read_at)
                self._reads_s[level] = self._read_s
                intake.take()
                self._read_at = now
            if now >= deadline:
                before = session.windows[-1].level
                level, deadline = self._windows.turn(controller, now)
                if level not in ("token", before):
                    self._read_s = self._reads_s.get(level, self._first_read_s)  # from now on they fill much faster
            due = now - self._written_at >= self._write_s
            if due or intake.pending > DECODE_EVENTS:
                intake.decode()
                intake.decode_sched()
                if due or session.batch.rows > WRITE_ROWS:
                    intake.take()  # writing takes a while
                    self._write()
                    self._written_at = now
            allowance.look(now)
            look_s = LOOK_S if any(p.sites for p in session.processes.values()) else options.look_s
            if now - self._looked_at >= 0.9 * look_s:  # together with what is done as often
                placed = session.plan.variables
                self._follower.look(now)
                if session.plan.variables is not placed:
                    self._sampler = Sampler(self._variables())
                self._on_progress(session.progress)
                self._looked_at = now
            if options.duration_s is not None and now - began >= options.duration_s:
                self.stop("the time is up")
            if options.max_events is not None and session.progress.events >= options.max_events:
                self.stop(f"--max-events {options.max_events} reached")

    def _write(self) -> None:
        used = time.process_time()
        self._writer.flush()
        self._write_s = min(max(WRITE_S, (time.process_time() - used) / WRITE_SHARE), LONGEST_WRITE_S)

    def _pace(self, fill: float, passed_s: float) -> None:
        """Read so often that the fullest ring is rarely fuller than FULL, and no oftener; slow down step by step."""
        full_in_s = passed_s * FULL / max(fill, 1e-6)
        self._read_s = min(max(full_in_s / 2, SHORTEST_READ_S), 2 * self._read_s, READ_S)

    def _finish(self) -> None:
        """What the rings still hold, and the last batch."""
        time.sleep(TAIL_S)  # an event may be half written
        self._intake.take()
        self._intake.decode(final=True)
        self._intake.decode_sched(final=True)
        self._writer.finish(
            self._neighbours.take() if self._neighbours else [],
            self._machine.take(self.session.processes) if self._machine else {},
        )
        progress = self.progress
        progress.lost = self._probes.rings.drops
        progress.elapsed_s = time.monotonic() - self.session.began
        progress.ended_because = self.session.stopped
