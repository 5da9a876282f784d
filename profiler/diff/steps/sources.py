"""Where steps come from: one source for each kind of engine."""

from __future__ import annotations

from collections.abc import Callable

from flowprof.profiler.diff.steps import of_ggml, of_gpu, of_requests, of_torch
from flowprof.profiler.diff.steps.steps import Steps
from flowprof.profiler.store import Recording

SOURCES: tuple[Callable[[Recording], list[Steps]], ...] = (of_ggml.read, of_torch.read, of_gpu.read)


WAITS: tuple[Callable[[Recording], list[Steps]], ...] = (of_requests.read,)  # what clients wait for meanwhile


def read(recording: Recording) -> tuple[Steps, ...]:
    """The phases of a recording's work, of every source."""
    return tuple(steps for source in SOURCES for steps in source(recording))


def with_waits(recording: Recording) -> tuple[Steps, ...]:
    """The same, and what clients waited for."""
    return (*read(recording), *(steps for source in WAITS for steps in source(recording)))
