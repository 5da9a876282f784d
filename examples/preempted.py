"""`waits.preempted`: a program of high priority takes a processor from one of the engine's threads half of the time.

The other thread waits at the next barrier, so that the whole graph is as slow as its slowest thread. The report names
the program, the thread that waited, and what it cost per token.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flowprof.examples import hog
from flowprof.examples.llama_server import RunningServer
from flowprof.examples.planted import Planted, show


@contextmanager
def plant(_: RunningServer) -> Iterator[None]:
    with hog.running(max(os.sched_getaffinity(0)), busy_ms=20, idle_ms=20):
        yield


PLANTED = Planted("waits.preempted", plant)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
