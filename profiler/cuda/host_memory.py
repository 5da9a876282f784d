"""Is memory of the host pinned, that a copy reads or writes? From what was pinned while recording, and what is mapped.

The driver maps what it pins itself (cudaHostAlloc) from its device files. Memory that was pinned later on
(cudaHostRegister) looks like any other: it is known when its registration was seen. So `pageable` is said of ordinary
private memory and of mapped files (weights), and where a program registered its own before the recording began that is
wrong. Of memory that processes share nothing is said.
"""

from __future__ import annotations

import numpy as np
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.target import map_lines
from numpy.typing import NDArray

Ints = NDArray[np.int64]
UNKNOWN, PAGEABLE, PINNED = 0, 1, 2
MAX_RANGES = 100_000  # that are pinned at a time
MAX_CHANGES = 1_000  # in one batch of calls
_DRIVER_FILES = "/dev/nvidia"
_SHARED_MEMORY = ("/dev/", "/memfd:", "/SYSV")  # devices, and memory that only looks like a file


class HostMemory:
    """Memory of one process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pinned: dict[int, int] = {}  # start → end
        self._changes: list[tuple[int, int, int]] = []  # since `kinds` was last asked

    def changed(self, at_ns: int, address: int, size: int = 0) -> None:
        """Memory was pinned, or (size 0) is not any more."""
        if len(self._changes) < MAX_CHANGES:
            self._changes.append((at_ns, address, size))

    def kinds(self, addresses: Ints, at_ns: Ints) -> NDArray[np.int8]:
        """UNKNOWN, PAGEABLE or PINNED, for each address as it was at a time behind those that were asked before."""
        found = _look(addresses, self._maps() if len(addresses) else [])
        last = np.iinfo(np.int64).min
        for change in [*sorted(self._changes), None]:
            until = np.iinfo(np.int64).max if change is None else change[0]
            mine = np.flatnonzero((at_ns >= last) & (at_ns < until))
            if len(mine) and self._pinned:
                own = _look(addresses[mine], [(start, end, PINNED) for start, end in sorted(self._pinned.items())])
                found[mine[own == PINNED]] = PINNED
            if change is not None:
                last, address, size = change
                self._pinned.pop(address, None)
                if 0 < size < 1 << 48 and len(self._pinned) < MAX_RANGES:
                    self._pinned[address] = address + size
        self._changes.clear()
        return found

    def _maps(self) -> list[tuple[int, int, int]]:
        found = []
        try:
            lines = map_lines(self._pid)
        except FlowprofError:
            return []  # the process is gone
        for line in lines.decode(errors="replace").split("\n"):
            parts = line.split(maxsplit=5)
            if len(parts) < 5 or "r" not in parts[1]:
                continue
            start, end = (int(x, 16) for x in parts[0].split("-"))
            if end >= 1 << 63:  # the kernel's own page
                continue
            path = parts[5] if len(parts) == 6 else ""
            ordinary = "p" in parts[1] or (path.startswith("/") and not path.startswith(_SHARED_MEMORY))
            kind = PINNED if path.startswith(_DRIVER_FILES) else PAGEABLE if ordinary else UNKNOWN
            found.append((start, end, kind))
        return found


def _look(addresses: Ints, ranges: list[tuple[int, int, int]]) -> NDArray[np.int8]:
    """The kind of the range that each address lies in; ranges by start, without overlap."""
    if not ranges:
        return np.zeros(len(addresses), np.int8)
    start, end, kind = (np.array(column, np.int64) for column in zip(*ranges, strict=True))
    at = np.searchsorted(start, addresses, "right") - 1
    return np.where((at >= 0) & (addresses < end[at]), kind[at], UNKNOWN).astype(np.int8)
