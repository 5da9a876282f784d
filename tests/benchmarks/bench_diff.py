"""The diff: how long it takes on large recordings, and how small a change it finds.

    python tests/benchmarks/bench_diff.py [--quick]

Power: one long recording of a real llama-server's decoding is cut into pairs of stretches of n tokens that do not
overlap, one of each pair is made slower by a known part, and the share of pairs is counted in which the diff finds the
phase slower; at 0 % that is the share of false alarms, slower or faster. The noise is this machine's, as it was then,
and is told. The same of simulated runs, as noisy as a quiet machine's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from bench_report import timed
from diff_runs import Run, steps
from flowprof.examples import llama_server, load, synthetic_model
from flowprof.profiler.diff.rows.phases import phase_shifts
from flowprof.profiler.diff.steps import sources
from flowprof.profiler.diff.steps.steps import Steps, end_to_end
from flowprof.profiler.store import Recording
from peak_memory import peak_mb
from row import Row
from synthetic import CEILINGS, sized, write

FLOWPROF = (sys.executable, "-m", "flowprof.profiler.cli")
SLOWER = (0.0, 0.01, 0.02, 0.05)
TOKENS = (250, 500, 1000)
PAIRS = 100
MEASURED = 0.03  # of the graphs, in the default mode
QUIET = 0.003  # so much the means of stretches differ on a machine that is called quiet
STEPS_DIFFER = 0.02  # of the simulated runs, from one to the next less: their means differ by about QUIET


def measured(quick: bool = False) -> Iterator[Row]:
    """The rows, as they are measured."""
    with tempfile.TemporaryDirectory(prefix="flowprof-bench-") as folder:
        yield from _speed(Path(folder), 1_000_000 if quick else 10_000_000)
        yield from _long(Path(folder), 15_000 if quick else 150_000)
        if os.geteuid() == 0:
            yield from _power(Path(folder), 10 if quick else 60)


def _speed(folder: Path, operators: int) -> Iterator[Row]:
    normal, buggy = str(folder / "normal.duckdb"), str(folder / "buggy.duckdb")
    write(normal, replace(sized(operators), ceilings=CEILINGS))
    write(buggy, replace(sized(operators), ceilings=CEILINGS, seed=2))
    command = ("diff", normal, buggy, "--json")
    size = f"{operators / 1e6:g} M"
    yield Row(f"diff: two recordings of {size} operators", timed(*FLOWPROF, *command), "s", 15)
    yield Row(f"diff: memory, two recordings of {size} operators", peak_mb(*command), "MB", 2000)


def _long(folder: Path, graphs: int) -> Iterator[Row]:
    """Recordings of half an hour in the default mode: of most graphs no operator is measured."""
    files = [str(folder / f"long-{seed}.duckdb") for seed in (1, 2)]
    spec = replace(
        sized(1), cycle=("thread", *("token",) * (round(1 / MEASURED) - 1)), requests=graphs // 500, tokens=499,
        ceilings=CEILINGS,
    )  # fmt: skip
    for seed, path in enumerate(files, 1):
        write(path, replace(spec, seed=seed))
    command = ("diff", *files, "--json")
    what = f"two recordings of {graphs / 1e3:g} 000 graphs, {MEASURED * 100:.0f} % of them measured"
    yield Row(f"diff: {what}", timed(*FLOWPROF, *command), "s", 15)
    yield Row(f"diff: memory, {what}", peak_mb(*command), "MB", 2000)


def _power(folder: Path, seconds: int) -> Iterator[Row]:
    """Of a live server, as noisy as this machine is, and of simulated runs of a quiet one."""
    decode = _recorded(folder / "long.duckdb", seconds)
    random = np.random.default_rng(1)
    for count in TOKENS:
        spread = _spread(decode, count)
        told = f"means of {count} tokens of the unchanged server differ by {spread * 100:.1f} %"
        yield from _curve("", count, partial(_pair, decode, count, random), spread <= QUIET, told)
    for count in TOKENS:
        yield from _curve(", simulated", count, partial(_simulated, count, random), True,
                          f"means differ by {_spread(_run(20 * count, random), count) * 100:.1f} %")  # fmt: skip


def _simulated(count: int, random: np.random.Generator) -> tuple[Steps, Steps]:
    return _run(count, random), _run(count, random)


def _run(count: int, random: np.random.Generator) -> Steps:
    return steps(Run(int(random.integers(1 << 30)), steps=count, groups=1, noise=0.0, shared=STEPS_DIFFER))


def _curve(
    where: str, count: int, pair: Callable[[], tuple[Steps, Steps] | None], quiet: bool, told: str
) -> Iterator[Row]:
    """False alarms (slower or faster), and how often a change is found. quiet: then there is a target."""
    for slower in SLOWER:
        drawn = [one for one in (pair() for _ in range(PAIRS)) if one is not None]
        found = sum(_found(first, second, slower) for first, second in drawn)
        what = f"+{slower * 100:g} % found" if slower else "false alarms"
        limit = 5.0 if not slower else 80.0 if quiet and (slower, count) == (0.02, 500) else None
        share = found / len(drawn) * 100 if drawn else None
        yield Row(f"diff: {what}, {count} tokens a side{where}", share, "%", limit, at_least=bool(slower),
                  note=f"{len(drawn)} pairs; {told}")  # fmt: skip


def _found(first: Steps, second: Steps, slower: float) -> bool:
    second = replace(second, all_ns=second.all_ns * (1 + slower))
    return any(
        one.significant and (not slower or one.delta_ns_per_token > 0)
        for one in phase_shifts(((first,),), ((second,),))
    )


def _spread(decode: Steps, count: int) -> float:
    """Relative standard deviation of the means of so many neighbouring steps."""
    parts = len(decode.all_ns) // count
    means = decode.all_ns[: parts * count].reshape(parts, count).mean(axis=1)
    return float(means.std(ddof=1) / means.mean()) if parts > 1 else float("nan")


def _recorded(path: Path, seconds: int) -> Steps:
    """Decode steps of a server that is kept busy with one request after the other."""
    with llama_server.start(synthetic_model.write("dense-150m"), threads=2) as server:
        ended = threading.Event()

        def ask() -> None:
            seed = 0
            while not ended.is_set():
                load.request(server.url, n_predict=200, prompt_tokens=32, seed=seed)
                seed += 1

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            time.sleep(2)
            subprocess.run((*FLOWPROF, "attach", str(server.pid), "-d", f"{seconds}s", "-o", str(path)), check=True,
                           capture_output=True)  # fmt: skip
        finally:
            ended.set()
            asking.join()
    with Recording.open(str(path)) as recording:
        return next(steps for steps in sources.read(recording) if steps.phase == "decode")


def _pair(steps: Steps, tokens: int, random: np.random.Generator) -> tuple[Steps, Steps] | None:
    """Two stretches of so many tokens that do not overlap; None: there are too few."""
    count = len(steps.all_ns)
    if count < 2 * tokens:
        return None
    room = random.integers(count - 2 * tokens + 1)
    first = int(random.integers(room + 1))
    second = first + tokens + int(random.integers(count - 2 * tokens - first + 1))
    return _stretch(steps, first, tokens), _stretch(steps, second, tokens)


def _stretch(steps: Steps, begin: int, count: int) -> Steps:
    return end_to_end(steps, slice(begin, begin + count))


if __name__ == "__main__":
    for row in measured("--quick" in sys.argv[1:]):
        print(row)
