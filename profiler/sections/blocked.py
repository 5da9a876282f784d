"""Where threads went to wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockedOperator:
    """An operator during which threads went to wait with one stack, as far as operators were measured."""

    phase: str  # of the graph
    op: str
    block: str  # attention, ffn, moe, output, other
    ns: int  # of these waits, inside the operator


@dataclass(frozen=True, slots=True)
class BlockedRow:
    """Waits of threads of one process with the same stack and state."""

    pid: int
    comm: str  # name of the thread that waited longest there
    threads: int  # that waited there
    computes: bool  # one of them drives or computes graphs, or calls operators
    state: str  # sleeping, fault, disk, stopped
    by_comm: str  # who ended most of it; "": an interrupt (a timer, a device), or not known
    total_ns: int
    share: float | None  # of the recorded time of these threads; None: how long that was is not known
    times: int
    longest_ns: int
    longest_at_ns: int  # since the recording began
    place: str  # the innermost function outside of the C library; "": none has a name
    caller: str  # who called it; "": nobody, or unknown
    stack: tuple[str, ...]  # functions, with file:line where known, from the innermost outwards
    operators: tuple[BlockedOperator, ...] = ()  # that it happened in, most time first


@dataclass(frozen=True, slots=True)
class OpenWait:
    """Threads of one process that had not come back when the recording ended, with the same stack and state."""

    pid: int
    comm: str  # name of one of them
    threads: int
    computes: bool
    state: str
    longest_ns: int | None  # so far; None: one did not run at all while it was recorded
    place: str
    caller: str
    stack: tuple[str, ...]
    operators: tuple[BlockedOperator, ...] = ()  # that waits with the same stack, which ended, happened in


@dataclass(frozen=True, slots=True)
class BlockedTable:
    rows: tuple[BlockedRow, ...]  # threads that compute first, then the longest
    total_ns: int  # of all waits
    shown_ns: int  # of those in `rows`
    no_stack_ns: int  # of those without a stack
    open: tuple[OpenWait, ...]  # threads that compute first, then the most threads
