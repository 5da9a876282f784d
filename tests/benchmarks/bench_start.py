"""How long flowprof makes its user wait: until the first event, for a plan, for the help text.

    python tests/benchmarks/bench_start.py

Whole processes are timed, as a user starts them. `attach` is started on a server that decodes on all processors, and
is done when the first graph begins that the recording holds (both clocks are CLOCK_MONOTONIC).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from flowprof.examples import llama_server, synthetic_model
from flowprof.profiler.store import Recording
from row import Row

FLOWPROF = (sys.executable, "-m", "flowprof.profiler.cli")


def measured(small: bool = False) -> Iterator[Row]:
    """The rows, as they are measured."""
    yield over("`flowprof --help`", [timed("--help") for _ in range(3 if small else 10)], 0.3)
    with llama_server.start(synthetic_model.write("dense-150m")) as server:
        plans = [timed("list-probes", str(server.pid)) for _ in range(2 if small else 7)]
        yield over(f"`list-probes`, largest library {largest_library_mb(server.pid):.0f} MB", plans, 1.0)
        command = [sys.executable, "-m", "flowprof.examples.load", server.url, "--seconds", "600", "--n-predict", "512"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as load:
            try:
                time.sleep(2)
                compiling = [first_event(server.pid, "empty") for _ in range(1 if small else 3)]
                firsts = [first_event(server.pid) for _ in range(2 if small else 7)]
            finally:
                load.kill()
    yield over("`attach` to first event, target busy", firsts, 1.5)
    yield over("likewise, the first recording ever: it compiles", compiling)


def over(what: str, seconds: list[float], limit: float | None = None) -> Row:
    """The median, with the best and the worst."""
    return Row(what, median(seconds), "s", limit, note=f"{min(seconds):.2f} … {max(seconds):.2f} s in {len(seconds)}")


def timed(*arguments: str) -> float:
    began = time.monotonic()
    subprocess.run([*FLOWPROF, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def first_event(pid: int, cache: str = "") -> float:
    """Seconds from the start of `flowprof attach` to the first graph in its recording. cache: a new one."""
    with tempfile.TemporaryDirectory(prefix="flowprof-bench-") as folder:
        path = f"{folder}/first.duckdb"
        env = {**os.environ, "FLOWPROF_CACHE": f"{folder}/{cache}"} if cache else None
        began = time.monotonic_ns()
        subprocess.run([*FLOWPROF, "attach", str(pid), "-q", "-d", "2s", "-o", path], check=True, env=env)
        with Recording.open(path) as recording:
            first = recording.rows("SELECT min(start_ns) FROM graph_exec")[0][0]
        return float(first - began) / 1e9


def largest_library_mb(pid: int) -> float:
    """The largest file that the process has mapped executable."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    paths = {Path(line.split(maxsplit=5)[5]) for line in lines if " r-xp " in line and "/" in line}
    return max(path.stat().st_size for path in paths if path.exists()) / 1e6


if __name__ == "__main__":
    for row in measured("--small" in sys.argv[1:]):
        print(row)
