"""A program that is busy for a while, then sleeps for a while, on one processor, before everybody else (needs root).

    python -m flowprof.examples.hog --processor 1 --busy-ms 20 --idle-ms 20

`running()` starts it from Python, in a session of its own, and ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "planted-hog"


@contextmanager
def running(processor: int, busy_ms: float, idle_ms: float) -> Iterator[int]:
    """Its process id, while it runs."""
    command = [sys.executable, "-m", "flowprof.examples.hog", "--processor", str(processor)]
    command += ["--busy-ms", str(busy_ms), "--idle-ms", str(idle_ms)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        if process.stdout is None or not process.stdout.readline():
            raise RuntimeError(f"the hog did not start (exit status {process.wait()})")
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processor", type=int, required=True)
    parser.add_argument("--busy-ms", type=float, default=20)
    parser.add_argument("--idle-ms", type=float, default=20)
    asked = parser.parse_args()
    Path("/proc/self/comm").write_text(NAME)
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    with contextlib.suppress(FileNotFoundError):  # where sessions are scheduled as groups a group has a priority, too
        Path("/proc/self/autogroup").write_text("-20")
    os.sched_setaffinity(0, {asked.processor})
    print(os.getpid(), flush=True)
    while True:
        end = time.monotonic() + asked.busy_ms / 1e3
        while time.monotonic() < end:
            pass
        time.sleep(asked.idle_ms / 1e3)


if __name__ == "__main__":
    main()
