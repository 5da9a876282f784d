"""How fast resources are analysed: 10 M events, and how often planted causes stay first in noisy events.

    python tests/benchmarks/bench_resources.py [--small]

The analyzer alone is timed, opening the recording included, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import numpy as np
import resource_runs as runs
from flowprof.profiler.store import Recording
from peak_memory import peak_mb
from row import Row
from test_resource_runs import stays_first

EVENTS, SMALL = 10_000_000, 400_000
PART = 1_000_000
STACKS, FRAMES = 2000, 12
SEEDS = 100
TIMED = """
import sys, time
begun = time.perf_counter()
from flowprof.profiler.analyzers import resources
from flowprof.profiler.store import Recording
with Recording.open(sys.argv[1]) as recording:
    outcome = resources.ANALYZER.run(recording)
assert outcome.status == "ok", outcome.reason
print(time.perf_counter() - begun)
"""


def measured(quick: bool = False) -> Iterator[Row]:
    """The rows, as they are measured."""
    with tempfile.TemporaryDirectory(prefix="flowprof-bench-") as name:
        folder = Path(name)
        path, events = folder / "large.duckdb", SMALL if quick else EVENTS
        for tasks in (False, True):
            write(path, events, tasks)
            said = subprocess.run([sys.executable, "-c", TIMED, str(path)], check=True, capture_output=True, text=True)
            which = f"{events / 1e6:g} M events{f', {events / 4e6:g} M tasks, {STACKS} stacks' * tasks}"
            yield Row(f"resources: analysis, {which}", float(said.stdout), "s", 30)
            yield Row(f"resources: memory, the whole report, {which}", peak_mb("report", str(path), "--json"), "MB")
            path.unlink()
        seeds = 4 if quick else SEEDS
        for cause, plant in runs.PLANTED.items():
            right = sum(stays_first(plant(seed).noisy(), folder) for seed in range(seeds))
            yield Row(f"resources: {cause} first, 23 % deleted, 13.6 % mislabelled", 100 * right / seeds, "%", 90,
                      at_least=True, note=f"of {seeds} seeds")  # fmt: skip


def write(path: Path, events: int, tasks: bool) -> None:
    """A pool of 64 pages and a lock, eight threads, units that go round: wait, acquire, use, release.

    tasks: each four events are those of a request of its own, and there are STACKS different stacks of calls.
    """
    kinds = np.array(["wait", "acquire", "use", "release"], object)
    with Recording.create(str(path)) as recording:
        recording.append("resource", {"resource_id": [1, 2], "manifest": "m", "name": ["page", "lock"],
                                      "kind": ["memory", "state"], "capacity": [64, None], "about": ""})  # fmt: skip
        for begin in range(0, events, PART):
            number = np.arange(begin, min(begin + PART, events))
            step = number // 4
            task = step if tasks else np.ma.masked_all(len(step), np.int64)
            with recording.batch():
                recording.append("resource_event", {
                    "at_ns": 10**12 + number * 6000, "pid": 7, "tid": 100 + step % 8, "resource_id": 1 + step % 2,
                    "event": kinds[number % 4], "instance": 0, "unit": step % 64, "units": 1, "task": task,
                    "stack_id": 1 + step * 7919 % (STACKS if tasks else 1),
                })  # fmt: skip
        stack = np.repeat(np.arange(STACKS), FRAMES)
        recording.append("stack", {
            "stack_id": 1 + stack, "frame": np.tile(np.arange(FRAMES), STACKS), "module": "/usr/bin/app",
            "address": 4096 + stack * FRAMES, "function": [f"function_{number}" for number in stack.tolist()],
        })  # fmt: skip


if __name__ == "__main__":
    for row in measured("--small" in sys.argv[1:]):
        print(row, flush=True)
