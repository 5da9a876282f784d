"""A probe site as planned: where it is, what it is for, or why there can be none."""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.probes.catalogue import Probe
from flowprof.profiler.resources.taps import VARIABLE, Tap
from flowprof.profiler.target import Module

MAX_SITES = 8192  # numbers that the kernel side has room for
MAX_TAPS = 1024  # events of manifests, as resources.bpf.c


@dataclass(frozen=True, slots=True)
class PlannedSite:
    """One probe site, or one refused (then `offset` is None and `reason` says why)."""

    site_id: int
    pid: int
    engine: str
    level: str
    probe: Probe
    module: Module
    build_id: str | None
    symbol: str
    address: int | None
    offset: int | None
    instruction: str
    cost_class: str
    reason: str
    entry_id: int = 0  # of an exit: the site at which its function is entered; 0: none
    function: int = 0  # where its function begins, where several may have its name; 0: not told
    taps: tuple[Tap, ...] = ()  # what happens to resources here
    saves: bool = False  # of an entry: keep the arguments for the exits
    shared: bool = False  # of an exit: other functions pass it, too; the stack pointer tells whose return it is

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of what is sampled here, or was to be."""
        names = [name for tap in self.taps for name, _, _ in tap.variables]
        if not names and self.probe.id.startswith(VARIABLE):
            names = [self.probe.id.removeprefix(VARIABLE)]
        return tuple(names)

    @property
    def refused(self) -> bool:
        """Whether there is no place for this probe."""
        return self.offset is None
