"""What the kernel counted per thread."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CounterRow:
    """One pool thread over the whole recording, as the kernel counted; None: the kernel does not count it."""

    pid: int
    tid: int
    ith: int | None
    comm: str
    task_clock_ns: int | None  # on a processor
    run_delay_ns: int | None  # runnable without one
    voluntary_switches: int | None
    involuntary_switches: int | None
    minor_faults: int | None
    major_faults: int | None


@dataclass(frozen=True, slots=True)
class CounterTable:
    rows: tuple[CounterRow, ...]
    hardware: str  # what is not there, in words
