"""`threads.imbalance`: one of the engine's threads has 10 ms more to do every 15 ms or so.

So does a thread on a slower core, or one that interrupts are served on. The report names the thread that the others
wait for, and what a perfect balance would gain at most.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from flowprof.examples import interrupted
from flowprof.examples.llama_server import RunningServer
from flowprof.examples.planted import Planted, every, show

PERIOD_S = 0.002  # the first signal that meets the thread at work, 4 ms after the last time, counts


def plant(server: RunningServer) -> AbstractContextManager[None]:
    tid = interrupted.pool_thread(server)
    return every(PERIOD_S, lambda: interrupted.compute(server, tid))


PLANTED = Planted("threads.imbalance", plant, wrapper=interrupted.wrapper)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
