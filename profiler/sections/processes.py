"""Recorded processes that are in each other's way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Starved:
    """Threads of one recorded process could run, and one of another recorded process had the processor."""

    pid: int
    by_pid: int
    lost_ns: int  # over all threads of the process
    longest_ns: int
    times: int
    share: float | None  # of the processor time that its threads asked for (had, and waited for); None: not counted


@dataclass(frozen=True, slots=True)
class ProcessTable:
    rows: tuple[Starved, ...]  # the worst first
    pids: tuple[int, ...]
    names: tuple[tuple[int, str], ...]  # pid → its program
    not_seen: tuple[str, ...]  # what they may share, and the recording does not tell
