"""Performance counters per operator, and the byte model held against them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CountedOperator:
    """A group of like operators: figures of the mean call, all threads added up; None: not counted."""

    phase: str
    block: str
    op: str
    shape: str
    calls: int  # counted
    task_clock_ns: float  # on processors
    context_switches: float
    page_faults: float
    cycles: float | None  # in user mode, as the following
    instructions: float | None
    ipc: float | None  # instructions per cycle
    stalled_share: float | None  # of the cycles
    memory_bytes: float | None  # lines counted from memory × bytes of a line
    weight_bytes: float | None  # by the byte model; None: the operator is not counted there
    model_bytes: float | None  # likewise, with activations and cache, which need not come from memory
    ratio: float | None  # memory_bytes / weight_bytes, where the weights come from memory
    model: str  # confirmed, more, less; unclear: more, but what the cache served is counted, too; "" not checked


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """The byte model against the counted lines, per graph of a phase: operators whose weights come from memory."""

    phase: str
    operators: int  # groups
    memory_bytes: float  # counted
    weight_bytes: float  # by the model
    model_bytes: float  # likewise, with activations and cache
    ratio: float
    model: str  # as above


@dataclass(frozen=True, slots=True)
class OperatorCounterTable:
    rows: tuple[CountedOperator, ...]  # by phase, then by time
    level: str  # thread: the threads' own work; op: the first thread, with its waits at barriers
    checks: tuple[ModelCheck, ...]
    unchecked: str  # why the byte model was not checked; "" it was
    stream_share: float | None  # of a stream of known size, what the memory counters saw; None: not measured
    line_bytes: int
    missing: tuple[tuple[str, str], ...]  # counter, why
