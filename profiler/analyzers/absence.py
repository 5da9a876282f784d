"""What graphs lost while pool threads did not run, and because of whom: priced by waits.py and threads.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.analyzers.thread_times import SUMS, thread_times
from flowprof.profiler.machine.cgroup import Quota
from flowprof.profiler.sections.waits import WaitCause, WaitRow
from flowprof.profiler.store import Recording, read_sql

POOL_SQL = """
SELECT p.pid, p.cpus_allowed, count(DISTINCT t.ith) FROM process p JOIN thread t USING (pid)
WHERE t.ith IS NOT NULL GROUP BY p.pid, p.cpus_allowed ORDER BY p.pid
"""
PHASES_SQL = "SELECT graph_id, phase, pid FROM graph"
QUOTA_SQL = """
SELECT pid, max(value) FILTER (name = 'quota_us'), coalesce(max(value) FILTER (name = 'period_us'), 0),
       max(value) FILTER (name = 'nr_periods'), max(value) FILTER (name = 'nr_throttled'),
       max(value) FILTER (name = 'throttled_ns')
FROM counter WHERE tid = 0 GROUP BY pid
"""
PROCESSES_SQL = "SELECT DISTINCT pid FROM graph_exec ORDER BY pid"
NAMES_SQL = """
SELECT tid, coalesce(any_value(comm), ''), coalesce(any_value(cpus), '') FROM thread GROUP BY tid
"""


@dataclass(frozen=True, slots=True)
class Loss:
    """One state's price in one phase of one process."""

    pid: int
    phase: str
    state: str  # runnable, fault, disk, stopped
    lost_ns: int  # per graph that of the thread that was away longest, summed
    causes: tuple[WaitCause, ...]  # largest first
    longest_at_ns: int  # when the longest absence began, since the recording began

    @property
    def siblings(self) -> list[WaitCause]:
        """The causes that are threads of the server itself."""
        return [cause for cause in self.causes if cause.by_own_process]

    @property
    def others(self) -> list[WaitCause]:
        return [cause for cause in self.causes if not cause.by_own_process and cause.by_tid]

    @property
    def idle(self) -> list[WaitCause]:
        """Nobody was in the way."""
        return [cause for cause in self.causes if not cause.by_tid]

    @property
    def by_itself(self) -> bool:
        """The server's own threads were in each other's way, more than anybody else was in theirs."""
        return total(self.siblings) > total(self.others)


@dataclass(frozen=True, slots=True)
class CrowdedPool:
    """A process with more pool threads than processors that it may use."""

    pid: int
    threads: int
    processors: int


class Place(NamedTuple):
    """A thread of a pool."""

    phase: str
    pid: int
    driver_tid: int  # the thread that drives the pool's graphs
    ith: int
    tid: int


@once
def by_thread(recording: Recording) -> dict[Place, Counter[str]]:
    """The sums of thread_times.py for every pool thread, in order of its place."""
    phases = {graph: (phase, pid) for graph, phase, pid in recording.rows(PHASES_SQL)}
    times = thread_times(recording).threads
    sums: dict[Place, Counter[str]] = {}
    for values in zip(*(column.tolist() for column in times.values()), strict=True):
        row = dict(zip(times, values, strict=True))
        phase, pid = phases[row["graph_id"]]
        place = Place(phase, pid, row["driver_tid"], row["ith"], row["tid"])
        sums.setdefault(place, Counter()).update({name: row[name] for name in SUMS})
    return dict(sorted(sums.items()))


@once
def splits(recording: Recording) -> tuple[WaitRow, ...]:
    """Every pool thread's time from thread windows: of the executions that it was in."""
    names = {tid: (comm, cpus) for tid, comm, cpus in recording.rows(NAMES_SQL)}
    found = []
    for place, parts in by_thread(recording).items():
        comm, cpus = names.get(place.tid, ("", ""))
        asleep = parts["barrier_blocked_ns"]
        found.append(
            WaitRow(
                **place._asdict(),
                comm=comm,
                cpus=cpus,
                wall_ns=parts["wall_ns"],
                work_ns=parts["compute_ns"] - parts["off_at_work_ns"],
                barrier_ns=parts["wait_ns"] - parts["off_at_barrier_ns"] + asleep,
                barrier_blocked_ns=asleep,
                runnable_ns=parts["runnable_ns"],
                blocked_ns=parts["blocked_ns"],
                fault_ns=parts["fault_ns"],
                stopped_ns=parts["stopped_ns"],
            )
        )
    return tuple(found)


@once
def losses(recording: Recording) -> list[Loss]:
    """By process, phase and state; without scheduler data none."""
    facts = recording.meta()
    known = {"began": int(facts.get("started_ns", 0)), "recorder": int(facts.get("recorder_pid", -1))}
    lost: dict[tuple[int, str, str], int] = {}
    found: dict[tuple[int, str, str], list[tuple[WaitCause, int]]] = {}
    rows = recording.rows(read_sql("wait_causes.sql"), known)
    for *fields, longest_at_ns, lost_ns in rows:
        cause = WaitCause(*fields)
        key = (cause.pid, cause.phase, cause.state)
        lost[key] = lost_ns
        found.setdefault(key, []).append((cause, longest_at_ns))
    return [
        Loss(*key, ns, tuple(cause for cause, _ in found[key]),
             max(found[key], key=lambda one: one[0].longest_ns)[1])
        for key, ns in lost.items()
    ]  # fmt: skip


@once
def quotas(recording: Recording) -> dict[int, Quota]:
    """By process, while it was recorded; without those of which the kernel did not say."""
    return {pid: Quota(*counts) for pid, *counts in recording.rows(QUOTA_SQL)}


def total(causes: Sequence[WaitCause]) -> int:
    """ns"""
    return sum(cause.total_ns for cause in causes)


def computing(recording: Recording) -> tuple[int, ...]:
    """The processes that executed graphs."""
    return tuple(pid for (pid,) in recording.rows(PROCESSES_SQL))


def in_process(pid: int, pids: Sequence[int]) -> str:
    """ " in process 4711" where several compute, else ""."""
    return f" in process {pid}" if len(pids) > 1 else ""


def of_processors(count: float) -> str:
    """1 processor, 1.5 processors."""
    return f"{round(count, 2):g} processor" + "s" * (count != 1)


def crowded_pools(recording: Recording) -> list[CrowdedPool]:
    """Known from thread windows only."""
    return [
        CrowdedPool(pid, threads, processors)
        for pid, processors, threads in recording.rows(POOL_SQL)
        if processors and threads > processors
    ]
