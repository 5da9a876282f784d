"""One pool thread of a live server that waits for a lock, or computes more than the others, inside its operators.

The server is started with a library (interrupted.c) whose signal handlers do that; needs gcc. Its threads spin at
barriers: where they slept, many of the signals would come to a barrier.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

from flowprof.examples.llama_server import RunningServer
from flowprof.profiler import cache

LIBRARY = "interrupted.so"
LOOK_S = 0.4


def wrapper() -> tuple[str, ...]:
    """The command in front of the server. Raises CalledProcessError or FileNotFoundError (no gcc)."""
    source, library = Path(__file__).with_suffix(".c"), _library()
    new = library.with_suffix(f".{os.getpid()}")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", new, source], check=True)
    new.replace(library)
    return ("env", f"LD_PRELOAD={library}", f"LOCK={library}", "OMP_WAIT_POLICY=active")


def pool_thread(server: RunningServer) -> int:
    """One of the two threads that use most processor time now, under load: not the busier one."""
    before = _used(server.pid)
    time.sleep(LOOK_S)
    gained = {tid: ns - before.get(tid, 0) for tid, ns in _used(server.pid).items()}
    return sorted(gained, key=lambda tid: -gained[tid])[:2][-1]


def wait_for_lock(server: RunningServer, tid: int, seconds: float) -> None:
    """Hold the lock for so long, with the thread waiting for it."""
    with _library().open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        _signal(server.pid, tid, signal.SIGUSR1)
        time.sleep(seconds)


def compute(server: RunningServer, tid: int) -> None:
    """10 ms of work for the thread, unless it is at a barrier, or did that less than 4 ms ago."""
    _signal(server.pid, tid, signal.SIGUSR2)


def _library() -> Path:
    return cache.made() / LIBRARY


def _signal(pid: int, tid: int, number: signal.Signals) -> None:
    ctypes.CDLL(None, use_errno=True).tgkill(pid, tid, int(number))


def _used(pid: int) -> dict[int, int]:
    """Processor time of every thread, ns."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        words = (task / "schedstat").read_text().split()
        found[int(task.name)] = int(words[0])
    return found
