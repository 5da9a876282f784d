"""`waits.stopped`: somebody stops the server for 80 ms every second and lets it go on again.

So do debuggers, snapshot and checkpoint tools, and job schedulers. The report says when, for how long, and who.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import AbstractContextManager

from flowprof.examples.llama_server import RunningServer
from flowprof.examples.planted import Planted, every, show

STOP_S = 0.08


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(STOP_S)
    finally:
        os.kill(pid, signal.SIGCONT)


def plant(server: RunningServer) -> AbstractContextManager[None]:
    return every(1.0, lambda: stop(server.pid))


PLANTED = Planted("waits.stopped", plant)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
