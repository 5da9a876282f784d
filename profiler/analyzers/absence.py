"""What graphs lost while pool threads did not run, and because of whom: priced by waits.py and threads.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.analyzers.slices import slices
from flowprof.profiler.sections.waits import WaitCause, WaitRow
from flowprof.profiler.store import Recording, read_sql

POOL_SQL = """
SELECT p.pid, p.cpus_allowed, count(DISTINCT t.ith) FROM process p JOIN thread t USING (pid)
WHERE t.ith IS NOT NULL GROUP BY p.pid, p.cpus_allowed ORDER BY p.pid
"""
WALL_SQL = "SELECT phase, sum(dur_ns) FROM measured_graph WHERE level = 'thread' GROUP BY phase"
NAMES_SQL = """
SELECT tid, coalesce(any_value(comm), ''), coalesce(any_value(cpus), '') FROM thread GROUP BY tid
"""


@dataclass(frozen=True, slots=True)
class Loss:
    """One state's price in one phase."""

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


@once
def splits(recording: Recording) -> tuple[tuple[WaitRow, int], ...]:
    """Every pool thread's time from thread windows, and how much of `blocked_ns` it was stopped."""
    walls = dict(recording.rows(WALL_SQL))
    names = {tid: (comm, cpus) for tid, comm, cpus in recording.rows(NAMES_SQL)}
    sums: dict[tuple[str, int, int], list[int]] = {}
    for stretch in slices(recording):
        for phase, ith, tid, *parts in recording.rows(read_sql("wait_threads.sql"), stretch):
            before = sums.get((phase, ith, tid), [0] * len(parts))
            sums[phase, ith, tid] = [one + int(more) for one, more in zip(before, parts, strict=True)]
    found = []
    for (phase, ith, tid), (work, spin, asleep, queued, blocked, fault, stopped) in sorted(sums.items()):
        comm, cpus = names.get(tid, ("", ""))
        row = WaitRow(
            phase, tid, ith, comm, cpus, int(walls[phase]), work, spin + asleep, asleep, queued, blocked, fault
        )
        found.append((row, stopped))
    return tuple(found)


@once
def losses(recording: Recording) -> list[Loss]:
    """By phase and state; without scheduler data none."""
    facts = recording.meta()
    began, recorder = int(facts.get("started_ns", 0)), int(facts.get("recorder_pid", -1))
    lost: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, str], list[tuple[WaitCause, int]]] = {}
    rows = recording.rows(read_sql("wait_causes.sql"), {"recorder": recorder})
    for phase, state, by_tid, by_comm, by_ith, own, by_cpus, ith, cpus, times, ns, longest, at, first, of_all in rows:
        lost[phase, state] = int(of_all)
        cause = WaitCause(phase, state, by_tid, by_comm, by_ith, own, by_cpus, ith, cpus, times, int(ns), int(longest),
                          int(first) - began)  # fmt: skip
        found.setdefault((phase, state), []).append((cause, int(at) - began))
    return [
        Loss(phase, state, ns, tuple(cause for cause, _ in found[phase, state]),
             max(found[phase, state], key=lambda one: one[0].longest_ns)[1])
        for (phase, state), ns in lost.items()
    ]  # fmt: skip


def total(causes: Sequence[WaitCause]) -> int:
    """ns"""
    return sum(cause.total_ns for cause in causes)


def of_processors(count: int) -> str:
    return f"{count} processor" + "s" * (count != 1)


def crowded_pools(recording: Recording) -> list[CrowdedPool]:
    """Known from thread windows only."""
    return [
        CrowdedPool(pid, threads, processors)
        for pid, processors, threads in recording.rows(POOL_SQL)
        if processors and threads > processors
    ]
