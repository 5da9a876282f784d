"""Runs of an application with resources, simulated: event streams whose truth is known by construction, with jitter.

    run = g1(seed=3)
    run.write(path)              # a recording
    run.truth                    # what the analysis must find

Threads are generators that ask a small event simulator for units and for time; it writes down what probes would see.
Times in ms.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flowprof.profiler.store import Recording

PID = 500
MS = 1_000_000
START_NS = 1_000_000_000_000
KINDS = ("wait", "acquire", "use", "release")
LOST, WRONG = 0.23, 0.136  # gigiProfiler's own rates of missed and of wrong events

Process = Generator[Any, Any, None]


@dataclass(frozen=True, slots=True)
class Truth:
    """What was planted; "" and empty: nothing. holder: a part of the holder's name."""

    resource: str = ""
    pathology: str = ""
    holder: str = ""
    function: str = ""
    victims: tuple[str, ...] = ()
    waiting_ms: float | None = None
    chain: tuple[str, ...] = ()


@dataclass(slots=True)
class Pool:
    """Units of one resource that the simulator hands out; the lowest free one first."""

    resource_id: int
    capacity: int
    instance: int = 0
    tells_units: bool = True
    recheck: float | None = None  # who waits asks again so often: a loop around a timed wait
    free: list[int] = field(default_factory=list)
    queue: deque[tuple[int, Process, int]] = field(default_factory=deque)


@dataclass(slots=True)
class Run:
    """The simulator and what it has seen."""

    seed: int = 0
    end: float = 2000.0
    truth: Truth = field(default_factory=Truth)
    now: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    threads: dict[int, str] = field(default_factory=dict)
    stacks: dict[str, int] = field(default_factory=dict)
    samples: list[tuple[float, int, float]] = field(default_factory=list)  # at, variable, value
    variables: list[dict[str, Any]] = field(default_factory=list)
    states: list[tuple[int, float, float, str, int]] = field(default_factory=list)  # tid, start, end, state, by
    lost: int = 0
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    # ------------------------------------------------------------------ what is there

    def resource(self, name: str, kind: str, capacity: int | None = None, events: str | None = None) -> int:
        number = len(self.resources) + 1
        self.resources.append({"resource_id": number, "manifest": "simulated", "name": name, "kind": kind,
                               "capacity": capacity, "about": f"a {name}", "events": events})  # fmt: skip
        return number

    def pool(self, name: str, kind: str, capacity: int, **more: Any) -> Pool:
        known = capacity if kind != "state" else None
        pool = Pool(self.resource(name, kind, known, more.pop("events", None)), capacity, **more)
        pool.free = list(range(capacity))
        return pool

    def stack(self, function: str) -> int:
        return self.stacks.setdefault(function, len(self.stacks) + 1)

    # ------------------------------------------------------------------ what happens

    def event(self, kind: str, tid: int, resource_id: int, stack: str = "", **more: Any) -> None:
        """At this moment."""
        self.events.append({"at": self.now, "kind": kind, "tid": tid, "resource_id": resource_id,
                            "stack": self.stack(stack) if stack else None, **more})  # fmt: skip

    def start(self, tid: int, name: str, process: Process, at: float = 0.0) -> None:
        self.threads[tid] = name
        self._at(at, lambda: self._step(process, tid, None))

    def jitter(self, mean: float, share: float = 0.2) -> float:
        return float(mean * np.clip(self.rng.normal(1, share), 0.2, 3))

    def run(self) -> Run:
        while self._due and self._due[0][0] <= self.end:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = self.end
        return self

    def take(self, tid: int, pool: Pool, stack: str, task: int | None = None, holder: int | None = None) -> Process:
        """For `yield from`: wait for a unit, and get it."""
        self.event("wait", tid, pool.resource_id, f"{stack}", instance=pool.instance, task=task, holder=holder)
        if not pool.free or pool.queue:
            unit = yield (pool, tid, task, holder)
        else:
            unit = pool.free.pop(0)
            yield 0.001
        self.event("acquire", tid, pool.resource_id, stack, instance=pool.instance, task=task,
                   unit=unit if pool.tells_units else None)  # fmt: skip
        return unit

    def use(self, tid: int, pool: Pool, unit: int, task: int | None = None) -> None:
        self.event("use", tid, pool.resource_id, instance=pool.instance, task=task,
                   unit=unit if pool.tells_units else None)  # fmt: skip

    def give(self, tid: int, pool: Pool, unit: int, task: int | None = None) -> None:
        self.event("release", tid, pool.resource_id, instance=pool.instance, task=task,
                   unit=unit if pool.tells_units else None)  # fmt: skip
        if pool.queue:
            _, process, waiter = pool.queue.popleft()
            self._at(self.now + 0.002, lambda: self._step(process, waiter, unit))
        else:
            heapq.heappush(pool.free, unit)
            pool.free.sort()

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._number), action))

    def _step(self, process: Process, tid: int, value: Any) -> None:
        try:
            wanted = process.send(value)
        except StopIteration:
            return
        if isinstance(wanted, tuple):
            pool, waiter, task, holder = wanted
            entry = (next(self._number), process, waiter)
            pool.queue.append(entry)
            if pool.recheck:
                self._recheck(pool, entry, waiter, task, holder)
        else:
            self._at(self.now + max(float(wanted), 0.0), lambda: self._step(process, tid, None))

    def _recheck(self, pool: Pool, entry: tuple[int, Process, int], tid: int, task: int | None, holder: Any) -> None:
        def again() -> None:
            if entry in pool.queue:
                self.event("wait", tid, pool.resource_id, "again", instance=pool.instance, task=task, holder=holder)
                self._recheck(pool, entry, tid, task, holder)

        self._at(self.now + self.jitter(pool.recheck or 1), again)

    # ------------------------------------------------------------------ the recording

    def noisy(self, lost: float = LOST, wrong: float = WRONG) -> Run:
        """The same with a part of the events deleted and a part of the others called something else."""
        rng = np.random.default_rng(self.seed + 7919)
        kept = []
        for event in self.events:
            if rng.random() < lost:
                continue
            if rng.random() < wrong:
                event = {**event, "kind": rng.choice([kind for kind in KINDS if kind != event["kind"]])}
            kept.append(event)
        self.events = kept
        return self

    def write(self, path: str) -> None:
        with Recording.create(path, overwrite=True) as recording:
            for key, value in {"started_ns": START_NS, "stopped_ns": START_NS + round(self.end * MS),
                               "sched": "yes" if self.states else "no", "clean_end": "true"}.items():  # fmt: skip
                recording.set_meta(key, value)
            recording.append("process", {"pid": [PID], "ppid": 1, "exe": "/usr/bin/app", "cmdline": "app"})
            end_ns = START_NS + round(self.end * MS)
            recording.append("probe_window", {"window_id": [1], "level": "token", "start_ns": START_NS,
                                              "end_ns": end_ns, "losses": self.lost})  # fmt: skip
            if self.lost:
                recording.append("loss", {"window_id": [1], "place": "ring", "events": self.lost})
            recording.append("thread", {"pid": PID, "tid": list(self.threads), "comm": list(self.threads.values())})
            if self.resources:
                columns = {name: [one[name] for one in self.resources] for name in self.resources[0]}
                recording.append("resource", columns)
            self._write_events(recording)
            frames = [(number, frame, name) for name, number in self.stacks.items()
                      for frame, name in enumerate(("pool_get", name, "main"))]  # fmt: skip
            if frames:
                recording.append("stack", {
                    "stack_id": [number for number, _, _ in frames], "frame": [frame for _, frame, _ in frames],
                    "module": "/usr/bin/app", "address": 4096, "function": [name for _, _, name in frames],
                    "source": [f"app.c:{10 * number + frame}" for number, frame, _ in frames], "how": "unwound",
                })  # fmt: skip
            if self.variables:
                recording.append(
                    "variable", {name: [one[name] for one in self.variables] for name in self.variables[0]}
                )
                recording.append("variable_sample", {
                    "at_ns": [START_NS + round(at * MS) for at, _, _ in self.samples], "pid": PID, "tid": None,
                    "variable_id": [number for _, number, _ in self.samples],
                    "value": [value for _, _, value in self.samples],
                })  # fmt: skip
            if self.states:
                tid, start, end, state, by = zip(*self.states, strict=True)
                recording.append("thread_state", {
                    "pid": PID, "tid": list(tid), "cpu": 0, "start_ns": [START_NS + round(at * MS) for at in start],
                    "end_ns": [START_NS + round(at * MS) for at in end], "state": list(state), "by_tid": list(by),
                    "by_comm": [self.threads.get(one) for one in by],
                })  # fmt: skip

    def _write_events(self, recording: Recording) -> None:
        if not self.events:
            return
        with recording.batch():
            recording.append("resource_event", {
                "at_ns": [START_NS + round(one["at"] * MS) for one in self.events], "pid": PID,
                "tid": [one["tid"] for one in self.events],
                "resource_id": [one["resource_id"] for one in self.events],
                "event": [one["kind"] for one in self.events],
                "instance": [one.get("instance", 0) for one in self.events],
                "unit": _masked([one.get("unit") for one in self.events]),
                "units": [one.get("units", 1) for one in self.events],
                "task": _masked([one.get("task") for one in self.events]),
                "holder": _masked([one.get("holder") for one in self.events]),
                "stack_id": _masked([one["stack"] for one in self.events]), "site_id": None,
            })  # fmt: skip


def _masked(values: list[int | None]) -> Any:
    return np.ma.masked_array([value or 0 for value in values], [value is None for value in values], np.int64)


# ---------------------------------------------------------------------- planted


def _reader(run: Run, tid: int, pool: Pool, hold: float = 1.0, pause: float = 1.0, uses: int = 2) -> Process:
    while True:
        unit = yield from run.take(tid, pool, "read_page")
        for _ in range(uses):
            yield run.jitter(hold / uses)
            run.use(tid, pool, unit)
        run.give(tid, pool, unit)
        yield run.jitter(pause)


def g1(seed: int = 0) -> Run:
    """A scan floods a pool of 64 pages that four readers use."""
    run = Run(seed, 3000, Truth("page", "contention", "scan", "seq_scan", ("reader",)))
    pool = run.pool("page", "memory", 64)

    def scan(tid: int) -> Process:
        while True:
            units = []
            for _ in range(64):
                units.append((yield from run.take(tid, pool, "seq_scan")))
                run.use(tid, pool, units[-1])
            yield run.jitter(25)
            for unit in units:
                run.give(tid, pool, unit)
            yield run.jitter(3)

    for number in range(4):
        run.start(11 + number, "reader", _reader(run, 11 + number, pool), run.jitter(1))
    run.start(20, "scan", scan(20), 5)
    return run.run()


def g2(seed: int = 0, recheck: float | None = None, cut: float | None = None, told: bool = False) -> Run:
    """One thread holds a table for 6 s, another waits for 5.9 s: 59 s on a shorter scale. cut: the recording stops."""
    run = Run(seed, cut or 10_000, Truth("table", "contention", "alter", "alter_table", ("insert",),
                                         min(cut or 6500.0, 6500.0) - 600.0, ("table",)))  # fmt: skip
    table = run.pool("table", "state", 1, tells_units=False, recheck=recheck)
    cache = run.pool("cache", "state", 1, tells_units=False)

    def alter(tid: int) -> Process:
        yield 500.0
        unit = yield from run.take(tid, table, "alter_table")
        for _ in range(120):
            yield 50 - 0.001 / 120
            run.use(tid, table, unit)
        run.give(tid, table, unit)

    def insert(tid: int) -> Process:
        yield 600.0
        unit = yield from run.take(tid, table, "insert_row", holder=20 if told else None)
        run.use(tid, table, unit)
        yield 5.0
        run.give(tid, table, unit)

    run.start(20, "alter", alter(20))
    run.start(11, "insert", insert(11))
    for tid in (12, 13):
        run.start(tid, "other", _reader(run, tid, cache, 0.2, 9.0))
    return run.run()


def g3(seed: int = 0) -> Run:
    """A connection's buffers are acquired, never used, and held while others wait."""
    run = Run(seed, 5000, Truth("buffer", "inefficient policy", "hoarder", "reserve_all", ("worker",)))
    pool = run.pool("buffer", "memory", 6)

    def hoarder(tid: int) -> Process:
        while True:
            units = []
            for _ in range(6):
                units.append((yield from run.take(tid, pool, "reserve_all")))
            yield run.jitter(300)
            for unit in units:
                run.give(tid, pool, unit)
            yield run.jitter(60)

    for number in range(3):
        run.start(11 + number, "worker", _reader(run, 11 + number, pool, 4.0, 4.0, 3), run.jitter(2))
    run.start(30, "hoarder", hoarder(30), 20)
    return run.run()


def g4(seed: int = 0) -> Run:
    """Send buffers for clients that are dead: a long wait for room in the socket, and no use of the buffers."""
    run = Run(seed, 5000, Truth("send buffer", "inefficient policy", "task 9", "send_reply", ("worker",)))
    pool = run.pool("send buffer", "memory", 8)
    socket = run.pool("socket", "queue", 1, recheck=250.0)
    socket.free.clear()

    def worker(tid: int) -> Process:
        for task in itertools.count(tid * 1000):
            unit = yield from run.take(tid, pool, "send_reply", task)
            for _ in range(3):
                yield run.jitter(2)
                run.use(tid, pool, unit, task)
            run.give(tid, pool, unit, task)
            yield run.jitter(1)

    def dead(tid: int) -> Process:
        yield 250.0
        for _ in range(7):
            yield from run.take(tid, pool, "send_reply", 9)
        yield from run.take(tid, socket, "wait_writable", 9)

    for number in range(4):
        run.start(11 + number, "worker", worker(11 + number), run.jitter(1))
    run.start(40, "sender", dead(40))
    return run.run()


def g5(seed: int = 0) -> Run:
    """A log grows while a long transaction is open; its purge then floods the pool: two steps, the log as the root."""
    run = Run(seed, 9000, Truth("undo log", "unbounded growth", "report", "open_view", ("reader",),
                                chain=("page", "undo log")))  # fmt: skip
    pool = run.pool("page", "memory", 64)
    log = run.resource("undo log", "memory")
    records: deque[int] = deque()
    done = []

    def report(tid: int) -> Process:
        yield 400.0
        run.event("acquire", tid, log, "open_view", unit=10**6)
        for _ in range(45):
            yield run.jitter(100, 0.05)
            run.event("use", tid, log, unit=10**6)
        run.event("release", tid, log, unit=10**6)
        done.append(True)

    def writer(tid: int) -> Process:
        for number in itertools.count(tid * 100_000):
            unit = yield from run.take(tid, pool, "write_page")
            run.event("acquire", tid, log, "write_undo", unit=number)
            records.append(number)
            yield run.jitter(0.3)
            run.use(tid, pool, unit)
            run.give(tid, pool, unit)
            yield run.jitter(5)

    def purge(tid: int) -> Process:
        while True:
            yield 10.0
            if not done or len(records) < 60:
                while len(records) > 5 and not done and run.now < 400:
                    run.event("release", tid, log, unit=records.popleft())
                continue
            units = []
            for _ in range(64):
                units.append((yield from run.take(tid, pool, "purge_undo")))
                run.use(tid, pool, units[-1])
            for _ in range(min(30, len(records))):
                record = records.popleft()
                run.event("use", tid, log, unit=record)
                yield run.jitter(1)
                run.event("release", tid, log, unit=record)
            for unit in units:
                run.give(tid, pool, unit)

    for number in range(4):
        run.start(11 + number, "reader", _reader(run, 11 + number, pool), run.jitter(1))
    for tid in (21, 22):
        run.start(tid, "writer", writer(tid))
    run.start(50, "report", report(50))
    run.start(60, "purge", purge(60))
    return run.run()


def g6(seed: int = 0) -> Run:
    """One handle in a hundred is never released."""
    run = Run(seed, 10_000, Truth("handle", "leak", "", "open_report"))
    pool = run.pool("handle", "memory", 10_000)
    run.resources[-1]["capacity"] = None

    def opener(tid: int, function: str, keep: int) -> Process:
        for number in itertools.count(1):
            path = function if number % 20 else "open_report"
            unit = yield from run.take(tid, pool, path)
            for _ in range(2):
                yield run.jitter(2)
                run.use(tid, pool, unit)
            if number % keep:
                run.give(tid, pool, unit)
            yield run.jitter(2)

    for number in range(4):
        run.start(11 + number, "worker", opener(11 + number, "open_file", 100), run.jitter(1))
    return run.run()


def g6b(seed: int = 0) -> Run:
    """One unit in a hundred of a pool of eight is never released, until there is none left and all four wait."""
    run = Run(seed, 10_000, Truth("slot", "leak", "", "open_report", ("worker",)))
    pool = run.pool("slot", "memory", 8)

    def opener(tid: int) -> Process:
        for number in itertools.count(tid * 25):
            unit = yield from run.take(tid, pool, "open_file" if number % 10 else "open_report")
            yield run.jitter(2)
            run.use(tid, pool, unit)
            if number % 100:
                run.give(tid, pool, unit)
            yield run.jitter(2)

    for number in range(4):
        run.start(11 + number, "worker", opener(11 + number), run.jitter(1))
    return run.run()


def g7(seed: int = 0) -> Run:
    """Allocations of one unit at 10 000 a second."""
    run = Run(seed, 1500, Truth("arena", "insufficient allocation", "parser", "grow_by_one"))
    pool = run.pool("arena", "memory", 4096)

    def parser(tid: int) -> Process:
        held: deque[int] = deque()
        while True:
            unit = yield from run.take(tid, pool, "grow_by_one")
            run.use(tid, pool, unit)
            held.append(unit)
            yield run.jitter(0.095)
            if len(held) > 20:
                run.give(tid, pool, held.popleft())

    run.start(11, "parser", parser(11))
    run.start(12, "other", _reader(run, 12, pool, 1.0, 20.0))
    return run.run()


def g8(seed: int = 0) -> Run:
    """Healthy: a cache that warms up, a lock that is hardly waited for, a pool, a queue whose workers idle."""
    run = Run(seed, 4000)
    cache = run.resource("cache", "memory")
    lock = run.pool("lock", "state", 1, tells_units=False)
    pool = run.pool("connection", "memory", 16)
    jobs = run.resource("job", "queue", events="wait,acquire,use,release")
    warm = run.jitter(run.rng.choice([250.0, 800.0, 4000.0]), 0.1)

    def filler(tid: int) -> Process:
        full = 3000
        held = 0
        while True:
            yield run.jitter(2)
            for _ in range(int(run.rng.poisson(2 * (full - held) / warm))):
                run.event("acquire", tid, cache, "cache_insert", unit=held)
                held += 1
            if held:
                run.event("use", tid, cache, unit=int(run.rng.integers(held)))

    def idler(tid: int) -> Process:
        for job in itertools.count(tid * 10_000):
            run.event("wait", tid, jobs, "pop", task=None)
            yield run.jitter(30, 0.5)
            run.event("acquire", tid, jobs, "pop", unit=job)
            yield run.jitter(3)
            run.event("use", tid, jobs, unit=job)
            run.event("release", tid, jobs, unit=job)

    run.start(10, "filler", filler(10))
    for tid in (11, 12, 13):
        run.start(tid, "worker", _reader(run, tid, lock, 0.05, 5.0), run.jitter(3))
    for tid in range(20, 26):
        run.start(tid, "client", _reader(run, tid, pool, 3.0, 5.0), run.jitter(3))
    for tid in range(30, 34):
        run.start(tid, "idler", idler(tid), run.jitter(3))
    return run.run()


def signalled(seed: int = 0, workers: int = 3, work: float = 1.0, kind: str = "queue") -> Run:
    """Healthy: workers of a condition that somebody else signals ten times a second; they wait for work, and have it
    for `work` ms. Whoever signals is who releases."""
    run = Run(seed, 4000)
    condition = run.resource("condition", kind, events="wait,acquire,release")
    idle = deque(range(20, 20 + workers))
    run.threads |= dict.fromkeys(idle, "worker")

    def producer() -> Process:
        for tid in idle:
            run.event("wait", tid, condition, "pop")
        while True:
            yield run.jitter(100, 0.3)
            run.event("release", 10, condition, "push")
            tid = idle.popleft()
            yield 0.05
            run.event("acquire", tid, condition, "pop")
            yield run.jitter(work)
            run.event("wait", tid, condition, "pop")
            idle.append(tid)

    run.start(10, "producer", producer())
    return run.run()


def g12(seed: int = 0) -> Run:
    """g1 in a ring that was too small: a fifth of the events was lost, and counted."""
    run = g1(seed)
    every = len(run.events)
    run.noisy(lost=0.2, wrong=0.0)
    run.lost = every - len(run.events)
    return run


PLANTED: dict[str, Callable[[int], Run]] = {
    "g1": g1, "g2": lambda seed: g2(seed, recheck=250.0), "g3": g3, "g4": g4, "g5": g5, "g6": g6, "g7": g7,
}  # fmt: skip


def hostile(evil: str) -> Run:
    """g5 with names that try to get out of the page, values that are no numbers, and events that make no sense."""
    run = g5(1)
    for resource in run.resources:
        resource["name"] = resource["about"] = evil + resource["name"]
    run.threads = dict.fromkeys(run.threads, evil)
    run.stacks = {evil * (number % 40): number for number in run.stacks.values()}
    run.variables = [{"variable_id": 1, "resource_id": 1, "name": evil, "expression": evil, "source": evil}]
    run.samples = [(10.0 * at, 1, value) for at, value in enumerate((1.0, 2.0, float("nan"), float("inf"), 1e308) * 9)]
    return run
