"""What other processes of the host used of its processors meanwhile: /proc read twice, at the start and at the end.

Processes that came and went in between are seen as one: what the processors were busy and nobody alive accounts for.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

MIN_SHARE = 0.02  # of one processor; who uses less is nobody's trouble
ENDED_SHARE = 0.1  # likewise, of processes that have ended; the two sums are sampled, a few per cent apart
MOST = 50
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One process and the processor time that it used while the recording ran."""

    pid: int  # 0: all those that began and ended meanwhile
    comm: str
    cpu_ns: int
    cpus: str  # processors that it may use


class Neighbours:
    """Counts from its creation on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = _busy()
        self._before = _used()

    def take(self) -> list[Neighbour]:
        """The processes that used MIN_SHARE of a processor or more since the start, most first."""
        passed = time.monotonic() - self._began
        least, rest = MIN_SHARE * passed, _busy() - self._busy
        found = []
        for (pid, started), (comm, seconds) in _used().items():
            gained = seconds - self._before.get((pid, started), ("", 0.0))[1]
            rest -= gained
            if gained >= least and gained > 2 / _TICKS:
                found.append(Neighbour(pid, comm, int(gained * 1e9), _cpus(pid)))
        if rest >= ENDED_SHARE * passed:
            found.append(Neighbour(0, "(ended meanwhile)", int(rest * 1e9), ""))
        found.sort(key=lambda one: -one.cpu_ns)
        return found[:MOST]


def _used() -> dict[tuple[int, str], tuple[str, float]]:
    """(pid, start time) → name, seconds of processor time so far."""
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            head, _, tail = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")
        except OSError:
            continue
        fields = tail.split()
        found[int(entry.name), fields[19]] = head.partition("(")[2], (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def _busy() -> float:
    """Seconds that processes have used on all processors so far."""
    user, nice, system = Path("/proc/stat").read_text().split(maxsplit=4)[1:4]
    return (int(user) + int(nice) + int(system)) / _TICKS


def _cpus(pid: int) -> str:
    try:
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("Cpus_allowed_list:"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""
