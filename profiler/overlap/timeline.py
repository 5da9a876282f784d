"""Slices of a device by the resource that they take, and how long each resource's work is exposed.

compute, memory: kernels by the larger term of their floor (FLOPs / peak, bytes / bandwidth); copies inside the device
and memsets are memory's. network: collectives and copies between devices. copy: between host and device. other: kernels
whose operator, shapes or ceiling are not known, that take LAUNCH times their floor or more, or that are too short to be
split in two.

Exposed is what runs while neither compute nor other work does. Other work counts as cover and not as room to hide
behind: where little is known little is promised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.intervals import Ints
from flowprof.profiler.overlap.interference import Hidden
from flowprof.profiler.sections.overlap import RESOURCES, ResourceTime
from numpy.typing import NDArray

COMPUTE, MEMORY, NETWORK, COPY, OTHER = range(len(RESOURCES))
UNKNOWN, NULL, BLOCKING, NON_BLOCKING = range(4)  # streams: NULL is the default one, for which blocking ones wait
SPLIT: tuple[tuple[Hidden, int], ...] = (("network", NETWORK), ("memory", MEMORY))  # joint time is the first one's


@dataclass(frozen=True, slots=True)
class Slices:
    """One device's work, sorted by start; arrays of one length. Missing launches: -1 and the largest int64."""

    start: Ints  # ns
    end: Ints  # ns
    resource: Ints  # index into RESOURCES
    stream: Ints
    name: Ints  # what it is: a number that the caller knows
    launch: Ints  # call_id, -1: not in the recording
    launch_ns: Ints  # when the launching call began
    launched_ns: Ints  # when it returned
    thread: Ints  # a number for (pid, tid) of the launch
    to_device: NDArray[np.bool_]  # copies from the host
    to_host: NDArray[np.bool_]
    pageable: NDArray[np.bool_]  # copies by an asynchronous call
    process: Ints  # pid of the launch, -1: not known
    flag: NDArray[np.int8]  # of the stream: UNKNOWN, NULL, BLOCKING, NON_BLOCKING

    def __len__(self) -> int:
        return len(self.start)

    def of(self, *resources: int) -> NDArray[np.bool_]:
        return np.isin(self.resource, resources)

    def length(self, rows: NDArray[np.bool_] | Ints) -> int:
        """ns that the chosen slices cover."""
        return intervals.length(self.start[rows], self.end[rows])


def alone(slices: Slices, rows: NDArray[np.bool_], cover: NDArray[np.bool_]) -> int:
    """ns of `rows` in which nothing of `cover` runs."""
    return slices.length(rows | cover) - slices.length(cover)


def times(slices: Slices) -> tuple[ResourceTime, ...]:
    """Busy and exposed time, by resource. Where two hidden resources run at once both are exposed."""
    cover = slices.of(COMPUTE, OTHER)
    found = []
    for number, name in enumerate(RESOURCES):
        rows = slices.of(number)
        exposed = 0 if number in (COMPUTE, OTHER) else alone(slices, rows, cover)
        found.append(ResourceTime(name, slices.length(rows), exposed))
    return tuple(found)


def split(slices: Slices) -> tuple[int, dict[Hidden, int]]:
    """ns of arithmetic beside which nothing runs, and ns of exposed memory and network, none counted twice."""
    busy = slices.of(MEMORY, NETWORK, COPY, OTHER)
    room = alone(slices, slices.of(COMPUTE), busy)
    hidden: dict[Hidden, int] = {}
    cover = slices.of(COMPUTE, OTHER, COPY)
    for kind, number in SPLIT:
        rows = slices.of(number)
        hidden[kind] = alone(slices, rows, cover)
        cover = cover | rows
    return room, hidden
