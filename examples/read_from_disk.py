"""`waits.fault`: the model's pages are put out of memory again and again, and read back from disk while it runs.

So does a model that is larger than the memory, or one that another program's files have displaced. The report gives the
share of the time, the waits and the major page faults.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import AbstractContextManager

from flowprof.examples.llama_server import RunningServer
from flowprof.examples.planted import Planted, every, show

PROCESS_MADVISE, PAGEOUT = 440, 21
PERIOD_S = 0.3


def evict(server: RunningServer) -> None:
    """Take the model out of the process's memory, then out of the page cache. Raises OSError, ValueError."""
    mapped = False
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(server.pid)
    try:
        with open(f"/proc/{server.pid}/maps") as maps:
            for line in maps:
                if line.rstrip().endswith(str(server.model)):
                    mapped = True
                    start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
                    vector = (ctypes.c_size_t * 2)(start, end - start)
                    if libc.syscall(PROCESS_MADVISE, pidfd, vector, ctypes.c_size_t(1), PAGEOUT, 0) < 0:
                        raise OSError(ctypes.get_errno(), "process_madvise")
    finally:
        os.close(pidfd)
    if not mapped:
        raise ValueError(f"{server.model} is not mapped")
    with server.model.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plant(server: RunningServer) -> AbstractContextManager[None]:
    return every(PERIOD_S, lambda: evict(server))


PLANTED = Planted("waits.fault", plant, own_copy=True)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
