"""`waits.blocked`: one of the engine's threads waits for a lock inside its operators, 8 ms in 12.

So do engines that read a file, take a lock that another thread holds, or write to a full pipe in the middle of a graph.
The others wait for the thread at the next barrier; the report names the thread, and its stack shows on what it sleeps.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from flowprof.examples import interrupted
from flowprof.examples.llama_server import RunningServer
from flowprof.examples.planted import Planted, every, show

HELD_S, PAUSE_S = 0.008, 0.004


def plant(server: RunningServer) -> AbstractContextManager[None]:
    tid = interrupted.pool_thread(server)
    return every(PAUSE_S, lambda: interrupted.wait_for_lock(server, tid, HELD_S))


PLANTED = Planted("waits.blocked", plant, wrapper=interrupted.wrapper)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
