"""What a recording was asked for. It imports nothing that takes a while: the compiler waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowprof.profiler.resources.manifest import Manifest

LEVELS = ("token", "graph", "op", "thread", "sched")
LOOK_S = 1.0  # targets are looked at so often


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for. budget: allowed slow-down as a fraction, None for `--full`."""

    levels: tuple[str, ...] = LEVELS
    budget: float | None = 0.01
    duration_s: float | None = None
    max_events: int | None = None
    debug_dirs: tuple[str, ...] = ()
    ring_shift: int | None = None
    multi: bool | None = None
    torch_ops: str = ""  # which operators: "" the default ones, all, or a regular expression
    counters: str = ""  # per operator: software, all; none
    manifests: tuple[Manifest, ...] = ()  # of resources to be recorded
    look_s: float = LOOK_S
    command_line: str = ""
    release: Callable[[], None] = lambda: None  # called once the probes are in place: lets a held child go
