"""Read the kernel's event rings: map them, take all finished events of every processor at once, count the drops.

The layout is that of probes/bpf/event.bpf.c. Nothing here looks at an event's meaning.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

EVENT = np.dtype(
    [
        ("seq", "<u8"), ("at_ns", "<i8"), ("pid", "<i4"), ("tid", "<i4"), ("kind", "<u2"), ("site", "<u2"),
        ("ith", "<u4"), ("a", "<u8"), ("b", "<u8"), ("c", "<u8"), ("d", "<u8"),
    ]
)  # fmt: skip
HEAD = np.dtype([("head", "<u8"), ("tail", "<u8"), ("drops", "<u8"), ("pad", "<u8", 13)])

GRAPH_BEGIN, GRAPH_END, OP, OP_WORK, REQUEST_POST, REQUEST_RESULT, REQUEST_DONE, CALL = range(1, 9)
OFF_CPU, MAJOR_FAULT, EXPERTS, COUNTS, CALL_RETURN, CALL_LEFT, CALL_ABOUT = range(9, 16)
RESOURCE, RESOURCE_HOLDER, RESOURCE_VARIABLES = range(16, 19)
SLOT_START, SLOT_TOKEN, SLOT_RELEASE, BATCH_PART, CELLS_FREED, NO_CELLS, CALL_NAME = range(19, 26)


class Rings:
    """The rings of all processors, mapped from the maps `ring_heads` and `ring_events`."""

    def __init__(self, heads_fd: int, events_fd: int, cpus: int, shift: int) -> None:
        self.size = 1 << shift  # events of one processor
        self._cpus = cpus
        page = mmap.PAGESIZE

        def mapped(fd: int, size: int) -> mmap.mmap:
            return mmap.mmap(fd, (size + page - 1) // page * page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

        self._heads = np.frombuffer(mapped(heads_fd, cpus * HEAD.itemsize), HEAD, cpus)
        events = np.frombuffer(mapped(events_fd, (cpus << shift) * EVENT.itemsize), EVENT, cpus << shift)
        self._events = events.reshape(cpus, self.size)

    def read(self) -> NDArray[np.void]:
        """Take every finished event. Shape (n,), dtype EVENT, in order per processor (not across them)."""
        parts = [part for cpu in range(self._cpus) for part in self._read_cpu(cpu)]
        if not parts:
            return np.empty(0, EVENT)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read_cpu(self, cpu: int) -> list[NDArray[np.void]]:
        head = int(self._heads["head"][cpu])
        tail = int(self._heads["tail"][cpu])
        parts = []
        while tail < head:
            start = tail % self.size
            count = min(head - tail, self.size - start)
            view = self._events[cpu, start : start + count]
            # An event is finished when its seq is its index + 1; its writer may be at work: look first, copy then.
            finished = view["seq"] == np.arange(tail + 1, tail + 1 + count, dtype=np.uint64)
            ready = count if finished.all() else int(np.argmin(finished))
            if ready:
                parts.append(view[:ready].copy())
                tail += ready
            if ready < count:
                break
        self._heads["tail"][cpu] = tail
        return parts

    @property
    def drops(self) -> int:
        """Events that found their ring full, since the start."""
        return int(self._heads["drops"].sum())

    @property
    def fill(self) -> float:
        """How full the fullest ring is, 0 … 1."""
        return float((self._heads["head"] - self._heads["tail"]).max()) / self.size
