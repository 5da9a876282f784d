"""Global variables of targets, read now and then: rows of variable_sample without a thread."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.columns import Columns
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.memory import Memory
from flowprof.profiler.resources.expression import Way

_WORD = (1 << 64) - 1
_SINGLE, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")


@dataclass(slots=True)
class Sampled:
    """One variable of one process. due_s: time.monotonic()."""

    pid: int
    variable_id: int
    way: Way
    period_s: float
    due_s: float = 0.0


class Sampler:
    """Reads what is due; what cannot be read is unknown, in the recording too."""

    def __init__(self, variables: Sequence[Sampled]) -> None:
        self._variables = list(variables)
        self._memories = {one.pid: Memory(one.pid) for one in variables}

    def wait_s(self, now_s: float, most_s: float) -> float:
        """How long to wait until the next one is due, `most_s` at most."""
        return max(min([most_s, *(one.due_s - now_s for one in self._variables)]), 0.0)

    def take(self, now_s: float, at_ns: int) -> Columns | None:
        """Rows of those that are due; None: none is."""
        due = [one for one in self._variables if one.due_s <= now_s]
        if not due:
            return None
        values = []
        for one in due:
            one.due_s = now_s + one.period_s
            values.append(_value(self._memories[one.pid], one.way))
        return {
            "at_ns": [at_ns] * len(due), "pid": [one.pid for one in due],
            "variable_id": [one.variable_id for one in due],
            "value": np.ma.masked_array([value or 0.0 for value in values], [value is None for value in values]),
        }  # fmt: skip


def read_once(pid: int, way: Way) -> float | None:
    """A value of a process now; None: it cannot be read."""
    return _value(Memory(pid), way)


def _value(memory: Memory, way: Way) -> float | None:
    """As resources.bpf.c walks it; None, too, for a floating-point number that is infinite or none."""
    value = way.value
    try:
        for step in way.steps:
            value = (value + step.offset) & _WORD
            if step.size:
                value = int.from_bytes(memory.read(value, step.size), "little", signed=step.signed)
            if step.mask:
                value &= step.mask
    except FlowprofError:
        return None
    if way.kind.real:
        (number,) = (_DOUBLE if way.kind.size == 8 else _SINGLE).unpack(value.to_bytes(way.kind.size, "little"))
        return float(number) if math.isfinite(number) else None
    return float(value)
