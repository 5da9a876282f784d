"""The kernel's own events about the targets' threads: who took their processor, who woke them, pages read from disk.

They are the same for every engine. `fields` are those that the program reads, with their offsets; the running kernel's
description must agree, or the event is refused.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """One tracepoint of the kernel, read by `program` of sched.bpf.c."""

    id: str
    program: str
    category: str
    event: str
    fields: tuple[tuple[str, int, int], ...]  # name, offset, size


@dataclass(frozen=True, slots=True)
class SoftwareEvent:
    """One of perf's software events, counted one by one on every processor."""

    id: str
    program: str
    event: str
    config: int  # enum perf_sw_ids


SCHED: tuple[Tracepoint | SoftwareEvent, ...] = (
    Tracepoint(
        "sched.switch", "sched_switch", "sched", "sched_switch",
        (
            ("prev_comm", 8, 16), ("prev_pid", 24, 4), ("prev_state", 32, 8), ("next_comm", 40, 16),
            ("next_pid", 56, 4),
        ),
    ),
    Tracepoint("sched.waking", "sched_waking", "sched", "sched_waking", (("comm", 8, 16), ("pid", 24, 4))),
    SoftwareEvent("sched.fault", "major_fault", "major-faults", 6),
)  # fmt: skip

# Whoever is interrupted when an interrupt wakes a thread has no part in it: so it must be known when one is handled.
# Pairs of begin and end; irq_vectors is x86's, where timers and calls between processors are no ordinary interrupts.
INTERRUPTS: tuple[tuple[Tracepoint, Tracepoint], ...] = tuple(
    (
        Tracepoint(f"{category}.{event}_entry", "interrupt_begin", category, f"{event}_entry", ()),
        Tracepoint(f"{category}.{event}_exit", "interrupt_end", category, f"{event}_exit", ()),
    )
    for category, event in (
        ("irq", "irq_handler"), ("irq", "softirq"), ("irq_vectors", "local_timer"), ("irq_vectors", "irq_work"),
        ("irq_vectors", "call_function"), ("irq_vectors", "call_function_single"),
    )
)  # fmt: skip
