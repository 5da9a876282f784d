"""Measures how much a GEMM and a copy slow each other down: run by measure.py, which sets one-threaded BLAS.

    python -m flowprof.profiler.overlap.interference_child CPU CPU ROUNDS SECONDS

Two threads, each on a processor of its own; numpy lets go of the interpreter's lock in both. A round is the GEMM alone,
the copy alone, and both from one moment to another; a rate is whole units of work over the time that they took. Prints
JSON: lists of units per second by `gemm`, `copy`, `gemm_beside`, `copy_beside`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

SIDE = 768  # of the GEMM's matrices, f32: 0.9 GFLOP, 7 MB
COPIED = 256 << 20  # bytes: beyond any cache
CHUNK = 16 << 20


def gemm() -> Callable[[], object]:
    left, right = (np.random.default_rng(seed).random((SIDE, SIDE), np.float32) for seed in (1, 2))
    out = np.empty_like(left)
    return lambda: np.matmul(left, right, out=out)


def copy() -> Callable[[], object]:
    source, target = np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)
    place = [0]

    def once() -> None:
        at = place[0]
        np.copyto(target[at : at + CHUNK], source[at : at + CHUNK])
        place[0] = (at + CHUNK) % COPIED

    return once


def rate(work: Callable[[], object], cpu: int, begin: threading.Barrier, seconds: float) -> float:
    os.sched_setaffinity(0, {cpu})  # of this thread
    work()
    begin.wait()
    start, done = time.perf_counter(), 0
    while (now := time.perf_counter()) - start < seconds:
        work()
        done += 1
    return done / (max(now, time.perf_counter()) - start)


def together(works: dict[str, tuple[Callable[[], object], int]], seconds: float) -> dict[str, float]:
    """Units per second of each, all at once."""
    found: dict[str, float] = {}
    begin = threading.Barrier(len(works))

    def run(name: str, work: Callable[[], object], cpu: int) -> None:
        found[name] = rate(work, cpu, begin, seconds)

    threads = [threading.Thread(target=run, args=(name, *how)) for name, how in works.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def main() -> None:
    one, other, rounds, seconds = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    multiplies, copies = (gemm(), one), (copy(), other)
    found: dict[str, list[float]] = {"gemm": [], "copy": [], "gemm_beside": [], "copy_beside": []}
    for _ in range(rounds):
        found["gemm"].append(together({"gemm": multiplies}, seconds)["gemm"])
        found["copy"].append(together({"copy": copies}, seconds)["copy"])
        both = together({"gemm": multiplies, "copy": copies}, seconds)
        found["gemm_beside"].append(both["gemm"])
        found["copy_beside"].append(both["copy"])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
