"""A program whose overlap was missed, and the same with it: products on one processor and copies on another.

    python overlap_child.py PRODUCTS COPIES ROUNDS

Prints JSON: of each round the seconds of the products alone, of the copies alone, and of both side by side.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

SIDE, BLOCK = 1024, 64 << 20
CPUS = sorted(os.sched_getaffinity(0))


def main() -> None:
    products, copies, rounds = map(int, sys.argv[1:4])
    left, right = (np.random.default_rng(seed).random((SIDE, SIDE), np.float32) for seed in (1, 2))
    out = np.empty_like(left)
    source, target = np.ones(BLOCK, np.uint8), np.ones(BLOCK, np.uint8)

    def multiply() -> None:
        os.sched_setaffinity(0, {CPUS[0]})
        for _ in range(products):
            np.matmul(left, right, out=out)

    def copy() -> None:
        os.sched_setaffinity(0, {CPUS[-1]})
        for _ in range(copies):
            np.copyto(target, source)

    timed(multiply, copy)
    found = [(timed(multiply), timed(copy), timed(multiply, copy)) for _ in range(rounds)]
    print(json.dumps(found))


def timed(*works: Callable[[], None]) -> float:
    threads = [threading.Thread(target=work) for work in works]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
