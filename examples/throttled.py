"""`waits.throttled`: the server's control group may use half of the processors' time, as with docker --cpus.

Its threads spin through the quota in the first half of every 50 ms, and have no processor in the second. The report
says what the quota is, and in how many periods the kernel counted it as used up.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager

from flowprof.examples import quota
from flowprof.examples.llama_server import RunningServer
from flowprof.examples.planted import Planted, show

THREADS = min(2, len(os.sched_getaffinity(0)))


def plant(server: RunningServer) -> AbstractContextManager[object]:
    return quota.of(server.pid, THREADS / 2)


PLANTED = Planted("waits.throttled", plant, server={"threads": THREADS})

if __name__ == "__main__":
    sys.exit(show(PLANTED))
