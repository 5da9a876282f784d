"""Which file lies at an address of a process: what a page that came from disk was part of."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.target import map_lines, shown
from numpy.typing import NDArray

MAX_NAME = 400
SWAP = ""  # of no file: the page had been written to swap
READ_AGAIN_S = 1.0  # files come and go: not oftener


class MappedFiles:
    """The files that one process has mapped, read again when an address lies in none of those that are known."""

    def __init__(self, pid: int, lines: Callable[[int], bytes] = map_lines) -> None:
        self._pid = pid
        self._lines = lines
        self._read_at = -READ_AGAIN_S
        self._starts = np.zeros(0, np.uint64)
        self._ends = np.zeros(0, np.uint64)
        self._names: list[str] = []

    def names(self, addresses: NDArray[np.uint64]) -> list[str | None]:
        """Per address the file's path as the process sees it; SWAP; None where it is not known (any more)."""
        distinct, which = np.unique(addresses, return_inverse=True)
        found = self._known(distinct)
        if None in found and time.monotonic() - self._read_at >= READ_AGAIN_S:
            self._read()
            found = [new if old is None else old for old, new in zip(found, self._known(distinct), strict=True)]
        return [found[place] for place in which.tolist()]

    def _known(self, addresses: NDArray[np.uint64]) -> list[str | None]:
        place = np.searchsorted(self._starts, addresses, side="right") - 1
        inside = (place >= 0) & (addresses < np.append(self._ends, np.uint64(0))[place])
        return [self._names[at] if there else None for at, there in zip(place.tolist(), inside.tolist(), strict=True)]

    def _read(self) -> None:
        self._read_at = time.monotonic()
        try:
            lines = self._lines(self._pid)
        except FlowprofError:
            return  # what is known stays
        starts, ends, names = [], [], []
        for line in lines.decode(errors="surrogateescape").split("\n"):
            parts = line.split(maxsplit=5)
            edges = parts[0].split("-") if len(parts) >= 5 else []
            if len(edges) != 2:
                continue  # the last line, cut off
            starts.append(int(edges[0], 16))
            ends.append(int(edges[1], 16))
            path = parts[5] if len(parts) == 6 and parts[5].startswith("/") else SWAP
            names.append(shown(path)[:MAX_NAME])
        self._starts, self._ends = np.array(starts, np.uint64), np.array(ends, np.uint64)
        self._names = names
