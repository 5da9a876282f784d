"""What pool threads waited for."""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.sections.coverage import Coverage


@dataclass(frozen=True, slots=True)
class WaitRow:
    """One pool thread's time in the measured graph executions that it was in: the parts add up to `wall_ns`."""

    phase: str
    pid: int
    driver_tid: int  # the thread that drives these graphs: a process may have several, with a pool each
    tid: int
    ith: int
    comm: str
    cpus: str  # processors that it may use, like 0-3; "" unknown
    wall_ns: int
    work_ns: int  # on a processor, at its own share
    barrier_ns: int  # waiting for the other threads: spinning or asleep
    barrier_blocked_ns: int  # of it asleep
    runnable_ns: int  # wanted a processor and had none
    blocked_ns: int  # asleep or stopped outside of barriers: locks, I/O, SIGSTOP
    fault_ns: int  # reading a page of a mapped file from disk
    stopped_ns: int  # of blocked_ns: SIGSTOP, or a debugger


@dataclass(frozen=True, slots=True)
class WaitCause:
    """Who or what kept one pool thread from running during graphs (stopped: and before them); whole recording."""

    pid: int
    phase: str
    state: str  # runnable, fault, disk, stopped
    by_tid: int  # who ran instead, or woke it; 0: an interrupt
    by_comm: str
    by_ith: int | None  # when that is a thread of the pool itself
    by_own_process: bool  # of the process that waited
    by_cpus: str  # processors that it may use, if it is one of the process's
    ith: int  # the thread that waited
    cpus: str  # processors that it may use
    times: int  # graphs and absences that met
    total_ns: int
    longest_ns: int
    first_ns: int  # since the recording began


@dataclass(frozen=True, slots=True)
class WaitRoot:
    """What pool threads waited for in the end: waits are passed on to what their waker waited for meanwhile."""

    phase: str
    pid: int  # of the thread that waited
    wait: str  # sleeping: over the whole recording; barrier: in thread windows, spinning or asleep
    ith: int  # the thread that waited
    direct_tid: int  # who woke it, or came to the barrier last; 0: an interrupt
    direct_comm: str
    direct_ith: int | None  # when that is a thread of the process's pool
    cause: str  # work, runnable, fault, disk, stopped, interrupt, outside (the target), unknown
    by_tid: int  # who worked, had the processor, or is outside of the target
    by_comm: str
    by_ith: int | None
    total_ns: int


@dataclass(frozen=True, slots=True)
class WaitTable:
    rows: tuple[WaitRow, ...]  # thread windows; by phase, then by process and thread
    causes: tuple[WaitCause, ...]  # whole recording; the largest MAX_CAUSES
    roots: tuple[WaitRoot, ...]  # the largest MAX_CAUSES
    roots_ns: tuple[tuple[str, str, int], ...]  # phase, wait, ns of all of them
    major_faults: int
    coverage: tuple[Coverage, ...]
    lost_share: float  # of the scheduler's events
    withheld: bool  # so many that there are no findings
    notes: tuple[str, ...]
