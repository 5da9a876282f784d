"""`waits.shared_processor`: the engine's threads are bound to one processor and take turns on it.

So do threads with a wrong --cpu-mask, or ones that some tool has bound. The report names the processor and the threads.
(A whole process with fewer processors than threads is `threads.oversubscribed`.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flowprof.examples.llama_server import RunningServer
from flowprof.examples.planted import Planted, show


@contextmanager
def plant(server: RunningServer) -> Iterator[None]:
    one = {max(os.sched_getaffinity(0))}
    for thread in os.listdir(f"/proc/{server.pid}/task"):
        if int(thread) != server.pid:
            os.sched_setaffinity(int(thread), one)
    yield


PLANTED = Planted("waits.shared_processor", plant, model="tiny", n_predict=16)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
