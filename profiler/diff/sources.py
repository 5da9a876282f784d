"""Where steps come from: one source for each kind of engine."""

from __future__ import annotations

from collections.abc import Callable

from flowprof.profiler.diff import steps_ggml, steps_gpu, steps_torch
from flowprof.profiler.diff.steps import Steps
from flowprof.profiler.store import Recording

SOURCES: tuple[Callable[[Recording], list[Steps]], ...] = (steps_ggml.read, steps_torch.read, steps_gpu.read)


def read(recording: Recording) -> tuple[Steps, ...]:
    """The phases of a recording, of every source."""
    return tuple(steps for source in SOURCES for steps in source(recording))
