"""Measure this machine's interference: a GEMM on one processor beside a copy on another (interference_child.py).

One point (R, P) comes out: the GEMM keeps 1 − R of its speed, the copy reaches P of its own, both medians over the
rounds against the same work alone. It says what a thread that moves memory costs one that multiplies; GPUs need a table
of their own, measured with their kernels.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from flowprof.profiler.errors import NothingToProfileError, RecordingError
from flowprof.profiler.machine.calibrate import ONE_THREAD
from flowprof.profiler.overlap.interference import CPU

ROUNDS, SECONDS = 7, 0.25
LEAST = 0.001  # of R: a table holds positive shares


@dataclass(frozen=True, slots=True)
class Measured:
    """share: R, what the GEMM lost; speed: P, what the copy kept."""

    share: float
    speed: float
    cpus: tuple[int, int]


def measure(rounds: int = ROUNDS, seconds: float = SECONDS) -> Measured:
    """Takes 3 · rounds · seconds. Raises NothingToProfileError with one processor, or when the child fails."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise NothingToProfileError("interference needs two processors", "taskset -c 0,1 flowprof …")
    one, other = cpus[0], cpus[-1]
    command = [sys.executable, "-P", "-m", "flowprof.profiler.overlap.interference_child"]
    try:
        ran = subprocess.run(
            [*command, str(one), str(other), str(rounds), str(seconds)], capture_output=True, text=True, check=False,
            env={**os.environ, **ONE_THREAD}, timeout=60 + 10 * rounds * seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NothingToProfileError("the measurement did not end", "try again on an idle machine") from error
    if ran.returncode:
        said = ran.stderr.strip().splitlines()[-1:] or [f"exit {ran.returncode}"]
        raise NothingToProfileError(f"the measurement failed: {said[0][:200]}", "needs 600 MB of memory, and numpy")
    rates = {name: statistics.median(values) for name, values in json.loads(ran.stdout).items()}
    share = 1 - rates["gemm_beside"] / rates["gemm"]
    return Measured(
        min(1.0, max(LEAST, share)), min(1.0, max(LEAST, rates["copy_beside"] / rates["copy"])), (one, other)
    )


def write(found: Measured, path: str) -> None:
    """As interference.read takes it. Raises RecordingError."""
    text = (
        f"# {time.strftime('%Y-%m-%d')}: a GEMM on processor {found.cpus[0]} beside a copy on processor "
        f"{found.cpus[1]}, {os.uname().nodename}\n"
        f'device = "{CPU}"\n'
        f"memory = [[{found.share:.4f}, {found.speed:.4f}]]\n"
    )
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordingError(f"cannot write {path}: {error.strerror}", "name a file that you may write") from error
