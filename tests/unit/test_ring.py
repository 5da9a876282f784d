"""The rings read from memory that this test writes as the kernel would: finished events only, in order, none twice."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from flowprof.profiler.kernel_side.ring import EVENT, HEAD, Rings
from numpy.typing import NDArray

CPUS, SHIFT = 3, 6
SIZE = 1 << SHIFT


class Kernel:
    """Two memory files with the layout of probes/bpf/event.bpf.c, and the writer's steps."""

    def __init__(self) -> None:
        self.fds = [os.memfd_create("heads"), os.memfd_create("events")]
        for fd in self.fds:
            os.ftruncate(fd, 1 << 16)
        self.rings = Rings(*self.fds, CPUS, SHIFT)
        self.heads: NDArray[np.void] = self.rings._heads
        self.events: NDArray[np.void] = self.rings._events

    def reserve(self, cpu: int) -> int:
        index = int(self.heads["head"][cpu])
        self.heads["head"][cpu] += 1
        return index

    def publish(self, cpu: int, index: int, value: int) -> None:
        slot = self.events[cpu, index % SIZE : index % SIZE + 1]
        slot["a"] = value
        slot["seq"] = index + 1

    def write(self, cpu: int, *values: int) -> None:
        for value in values:
            self.publish(cpu, self.reserve(cpu), value)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    side = Kernel()
    yield side
    for fd in side.fds:
        os.close(fd)


def values(kernel: Kernel) -> list[int]:
    return [int(value) for value in kernel.rings.read()["a"]]


def test_sizes_are_those_of_the_kernel_side() -> None:
    assert EVENT.itemsize == 64 and HEAD.itemsize == 128


def test_nothing_there(kernel: Kernel) -> None:
    events = kernel.rings.read()
    assert events.dtype == EVENT and len(events) == 0
    assert (kernel.rings.drops, kernel.rings.fill) == (0, 0)


def test_every_processor_in_its_order(kernel: Kernel) -> None:
    kernel.write(0, 1, 2)
    kernel.write(2, 9)
    kernel.write(0, 3)
    assert values(kernel) == [1, 2, 3, 9]
    assert values(kernel) == []
    assert kernel.heads["tail"].tolist() == [3, 0, 1], "the kernel sees the room"


@pytest.mark.parametrize("step", [1, 7, SIZE - 1, SIZE])
def test_around_and_around(kernel: Kernel, step: int) -> None:
    expected = iter(range(10**6))
    for start in range(0, 5 * SIZE, step):
        kernel.write(1, *range(start, start + step))
        assert values(kernel) == [next(expected) for _ in range(step)]


def test_an_unfinished_event_stops_its_ring_only(kernel: Kernel) -> None:
    kernel.write(0, 1)
    late = kernel.reserve(0)
    kernel.write(0, 3, 4)
    kernel.write(1, 7)
    assert values(kernel) == [1, 7]
    assert values(kernel) == []
    kernel.publish(0, late, 2)
    assert values(kernel) == [2, 3, 4]


def test_an_unfinished_event_behind_the_end(kernel: Kernel) -> None:
    """The slot of a writer that is at work still holds the event of one round before."""
    kernel.write(0, *range(SIZE - 1))
    assert len(values(kernel)) == SIZE - 1
    first, second = kernel.reserve(0), kernel.reserve(0)  # the last slot and the first one again
    kernel.write(0, 102)
    assert values(kernel) == []
    kernel.publish(0, second, 101)
    assert values(kernel) == [], "the one before it is not finished"
    kernel.publish(0, first, 100)
    assert values(kernel) == [100, 101, 102]


def test_events_that_were_read_are_ours(kernel: Kernel) -> None:
    kernel.write(0, 5)
    events = kernel.rings.read()
    kernel.write(0, *range(100, 100 + SIZE))  # overwrites the slot
    assert events["a"].tolist() == [5]


def test_drops_and_fill(kernel: Kernel) -> None:
    kernel.heads["drops"] = [3, 0, 4]
    kernel.write(1, *range(SIZE // 2))
    assert kernel.rings.drops == 7
    assert kernel.rings.fill == 0.5
