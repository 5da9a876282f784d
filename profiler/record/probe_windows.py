"""Open and close the windows of a recording: attach what a level needs, count its hits, tell the budget controller."""

from __future__ import annotations

import os
import time

import numpy as np
from flowprof.profiler.kernel_side.probes_in_place import DEEP
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import CALL_ENGINES
from flowprof.profiler.planning.probe_cost import CostClass
from flowprof.profiler.record.decode import Window
from flowprof.profiler.record.intake import Intake
from flowprof.profiler.record.session import Session, now_ns
from flowprof.profiler.record.windows import LONGEST_S, Controller, Seen

ENOUGH = 8  # whole graphs in a window: that the one which runs is lost, too, hardly matters
MIN_STEPS = 3  # decode steps before a window's speed says anything
RETRY_S = 0.05  # until a window that cannot be closed is looked at again
IDLE_S = 0.2  # the same where nothing runs
_PROCESS_CLOCK = 2  # of any process: the kernel's number for its clock is made of the process id
_NEVER = np.iinfo(np.int64).max


class ProbeWindows:
    """The windows of a session, one after the other."""

    def __init__(self, session: Session, intake: Intake) -> None:
        self._session = session
        self._intake = intake
        self._next_window = 0
        self._hits: np.ndarray = np.zeros(1, np.int64)  # per site, when the window was opened
        self._threads = float(os.cpu_count() or 1)
        self._used_s = 0.0  # processor time of targets whose calls are recorded, when the last window ended
        self._lap = (0.0, 0.0, 0.0)  # processor time, idle time, time: when the recorder's use was counted last
        self._graph_s = RETRY_S  # how long a graph takes, as in the last window that held one
        self._deep: tuple[Window, float, float] | None = None  # to be accounted for; its calls' time and its hits'
        self._awaited_ns = 0  # start of the graph that ran when the window's time was up

    def deep_levels(self) -> tuple[str, ...]:
        """The levels that were asked for and can be attached: a thread's end of work is nothing without its start."""
        there = {site.level for site in self._session.sites if not site.refused}
        wanted = [level for level in ("op", "thread") if level in self._session.options.levels]
        return tuple(level for level in wanted if there.issuperset(DEEP[level]))

    def open(self, level: str) -> None:
        """Open a window of `level`, behind the last one."""
        session = self._session
        windows = session.windows
        self._hits = session.probes.site_hits(session.next_site())  # those while probes are attached are paid for, too
        self._intake.op_events = 0
        if level != "token" and (not windows or windows[-1].level != level):
            trusted = [p for p in session.processes.values() if p.ended_ns is None and not p.distrusted]
            live = [site for p in trusted for site in p.sites]
            session.probes.attach_deep(live, level)
        drops = session.probes.rings.drops
        start = now_ns()
        if not windows:
            self._lap = time.process_time(), _idle_s(), time.monotonic()  # before, there was nothing to record
        if windows and windows[-1].level == level and windows[-1].end_ns is not None:
            start = windows[-1].end_ns  # nothing was detached in between
        windows.append(Window(self._next_window, level, start, drops_before=drops))
        self._next_window += 1
        self._awaited_ns = 0
        session.progress.level = level

    def close_last(self) -> None:
        """The recording ends; its probes are about to be detached."""
        window = self._session.windows[-1]
        self._session.end_ns = window.end_ns = now_ns()
        self._count(window)
        self._count_recorder(window)

    def turn(self, controller: Controller, now: float) -> tuple[str, float]:
        """A window's time is up: account for it and open the next one, or stretch it.

        Returns the open window's level and when (time.monotonic()) its time is up.
        """
        session = self._session
        window = session.windows[-1]
        if window.level == "token":
            self._count_recorder(window)
        self._intake.decode()
        wait_s = self._wait_s(window)
        if wait_s:
            return window.level, now + wait_s
        self._close()
        calling_s, hits_s = self._calling_s(window), self._hits_s(window)
        if window.level == "token":
            controller.ended(self._seen(window, calling_s, hits_s))
            if self._deep:
                controller.ended(self._seen(*self._deep))
            self._deep = None
        else:
            self._deep = window, calling_s, hits_s
        controller.levels = self.deep_levels()
        level, length = controller.next()
        self.open(level)
        if window.level != "token":
            self._count_recorder(window)
        return level, time.monotonic() + length

    def _seen(self, window: Window, calling_s: float, hits_s: float) -> Seen:
        step_s = window.steps_ns / window.steps / 1e9 if window.steps >= MIN_STEPS else None
        if window.graphs:
            self._graph_s = window.busy_ns / window.graphs / 1e9
        busy_s = max(window.busy_ns / 1e9, calling_s)
        return Seen(
            window.level, busy_s, hits_s, window.displaced_ns / 1e9, step_s, window.switch_steps,
            window.switch_ns / 1e9,
        )  # fmt: skip

    def _count_recorder(self, window: Window) -> None:
        """What the recorder used since this was counted last is this window's.

        A target did without it as far as no processor was idle.
        """
        used, idle, at = self._lap
        self._lap = time.process_time(), _idle_s(), time.monotonic()
        used_s = self._lap[0] - used
        idle_processors = max(self._lap[1] - idle, 0.0) / max(self._lap[2] - at, 1e-3)
        window.recorder_ns += round(used_s * 1e9)
        window.displaced_ns += round(used_s * max(1 - idle_processors, 0.0) * 1e9)

    def _wait_s(self, window: Window) -> float:
        """How long to leave a window open though its time is up; 0: no longer.

        Only whole graphs count. So a deep window waits for its first one; and as long as they are fewer than ENOUGH
        also for the graph that ran when its time was up, but not for that one's successors. It looks again when that
        graph should have ended, and then every eighth of a graph's mean time: little of the next graph is recorded in
        vain. LONGEST_S ends the wait for a graph that runs; an idle server is waited for as long as it takes.
        """
        session = self._session
        live = [p for p in session.processes.values() if p.ended_ns is None]
        if not any(p.book.layouts is not None for p in live):
            if any(p.calls.count or p.calls.expected for p in live):
                return 0.0  # calls are whole or not, each by itself
            return RETRY_S  # no graph has been seen: what would be recorded could not be read
        if window.level == "token" or session.options.budget is None:
            return 0.0
        running_since = min(p.decoder.horizon() for p in live)
        idle = running_since == _NEVER
        age_s = (now_ns() - window.start_ns) / 1e9
        mean_s = age_s / window.graphs if window.graphs else self._graph_s
        again_s = IDLE_S if idle else max(mean_s - (now_ns() - running_since) / 1e9, mean_s / 8)
        if not window.graphs:
            return again_s if idle or age_s < LONGEST_S else 0.0
        if idle or window.graphs >= ENOUGH or age_s >= LONGEST_S:
            return 0.0
        self._awaited_ns = self._awaited_ns or running_since
        whole = self._awaited_ns >= window.start_ns  # when it ends: it began in this window
        return again_s if whole and running_since == self._awaited_ns else 0.0

    def _calling_s(self, window: Window) -> float:
        """Of the window, the time in which targets whose calls are recorded were busy: their processor time at most."""
        used, self._used_s = (
            self._used_s,
            sum(
                _processor_s(p.target.pid)
                for p in self._session.processes.values()
                if p.calls.expected and not p.ended_ns
            ),
        )
        length_s = ((window.end_ns or now_ns()) - window.start_ns) / 1e9
        return min(max(self._used_s - used, 0.0), length_s)

    def _close(self) -> None:
        session = self._session
        window = session.windows[-1]
        window.end_ns = now_ns()
        keeps = session.options.budget is None and window.level != "token" and not session.stopped
        if window.level != "token" and not keeps:
            session.probes.detach_deep()
        self._intake.take()
        self._count(window)

    def _count(self, window: Window) -> None:
        delta = self._hits_since()
        window.hits = int(delta.sum() - delta[list(self._session.sched_sites.values())].sum())
        window.drops = self._session.probes.rings.drops - window.drops_before

    def _hits_since(self) -> np.ndarray:
        """Hits per site in this window."""
        return self._session.hits_since(self._hits)

    def _hits_s(self, window: Window) -> float:
        """Seconds that the window's hits took: those of operators from each thread of ggml's pool, others from one.

        Whose time the events of resources and of the scheduler take is not known: all of one thread's. One of the
        scheduler's counts as an emulated hit.
        """
        session = self._session
        delta = self._hits_since()
        pool = 0.0
        single = float(delta[list(session.sched_sites.values())].sum()) * session.cost_ns.get(CostClass.EMULATED, 0.0)
        op_hits = 0
        for site in session.sites:
            if site.site_id < len(delta):
                spent = float(delta[site.site_id]) * (session.hit_cost_ns(site) or 0.0)
                if site.engine in CALL_ENGINES or site.level not in DEEP["thread"]:
                    single += spent
                    continue
                pool += spent
                op_hits += int(delta[site.site_id]) if site.level == "op" else 0
        known = max((len(p.threads) for p in session.processes.values()), default=0)
        if window.level == "thread" and known:
            self._threads = float(known)
        elif window.level == "op" and self._intake.op_events:
            self._threads = max(1.0, op_hits / self._intake.op_events)
        return (pool / max(self._threads, 1.0) + single) / 1e9


def _idle_s() -> float:
    """For how long processors were idle since the start, all together; 0 where it is not known."""
    try:
        return float(kernel.text("/proc/uptime").split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0


def _processor_s(pid: int) -> float:
    """Processor time of a process so far; 0 when it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | _PROCESS_CLOCK)
    except OSError:
        return 0.0
