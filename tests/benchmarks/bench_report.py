"""How fast reports are: terminal and HTML on recordings of 1 M and 10 M operators, of two and of many graphs, and of a
mixture of experts; and the page in a browser.

    python tests/benchmarks/bench_report.py [--small]

Whole processes are timed, as a user sees them: `python -m flowprof.profiler.cli report …`, best of three.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import duckdb
from chromium import FRAMES, READY, Chromium, executable
from peak_memory import peak_mb
from row import Row
from synthetic import CEILINGS, PID, Synthetic, grow_context, sized, write

REPEATS = 3
GRAPHS = 300
EXPERTS = Synthetic(layers=48, requests=200, tokens=10, prompt=512, cycle=("op",), experts=(128, 8), ceilings=CEILINGS)


def timed(*command: str) -> float:
    """Seconds of the fastest of REPEATS runs of a command that must succeed."""
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - begun)
    return best


def measured(small: bool = False) -> Iterator[Row]:
    """The rows, as they are measured."""
    with tempfile.TemporaryDirectory(prefix="flowprof-bench-") as folder:
        yield from _measured(Path(folder), small)


def _measured(folder: Path, small: bool) -> Iterator[Row]:
    flowprof = (sys.executable, "-m", "flowprof.profiler.cli", "report")
    million = folder / "million.duckdb"
    write(str(million), sized(1_000_000))
    page = folder / "million.html"
    yield Row("report: terminal, 1 M operators", timed(*flowprof, str(million)), "s", 3)
    yield Row("report: JSON, 1 M operators", timed(*flowprof, str(million), "--json"), "s", 3)
    yield Row("report: HTML, 1 M operators", timed(*flowprof, str(million), "--html", str(page)), "s", 5)
    yield Row("report: HTML, size", page.stat().st_size / 1e6, "MB", 20)
    if executable():
        yield from in_browser(page)
    if not small:
        large = folder / "large.duckdb"
        write(str(large), replace(sized(10_000_000), ceilings=CEILINGS))
        with_absences(large)
        yield Row("report: terminal, 10 M operators", timed(*flowprof, str(large)), "s", 10,
                  note="all analyzers, with ceilings and 1 M absences of threads")  # fmt: skip
        yield Row("report: memory, 10 M operators", peak_mb("report", str(large)), "MB", 2000)
        yield Row("report: HTML, 10 M operators", timed(*flowprof, str(large), "--html", str(page)), "s", 10)
        yield Row("report: HTML of 10 M operators, size", page.stat().st_size / 1e6, "MB", 20)
        grow_context(str(large), GRAPHS)
        yield Row("report: terminal, 10 M operators of many graphs", timed(*flowprof, str(large)), "s", 10,
                  note=f"{GRAPHS} graphs, as a growing context makes them")  # fmt: skip
        yield Row("report: memory, HTML of 10 M operators of many graphs",
                  peak_mb("report", str(large), "--html", str(page)), "MB", 2000)  # fmt: skip
        large.unlink()
        experts = folder / "experts.duckdb"
        write(str(experts), EXPERTS)
        yield Row("report: terminal, mixture of experts", timed(*flowprof, str(experts)), "s", 10,
                  note="39 M uses of experts: 200 prompts of 512 tokens, 48 layers, 8 of 128 experts")  # fmt: skip
        yield Row("report: memory, HTML of a mixture of experts",
                  peak_mb("report", str(experts), "--html", str(page)), "MB", 2000)  # fmt: skip


def with_absences(path: Path) -> None:
    """A million stretches without a processor, as the scheduler would have told, in operators of all threads."""
    with duckdb.connect(str(path)) as db:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('sched', 'yes')")
        db.execute(
            "INSERT INTO thread_state SELECT ?, tid, 0, start_ns + 100, start_ns + 300, 'runnable', 99, 'hog', NULL "
            "FROM op_exec WHERE hash(start_ns, tid) % 10 = 0 ORDER BY start_ns LIMIT 1_000_000",
            [PID],
        )


def in_browser(page: Path) -> Iterator[Row]:
    """First paint and frames at all zoom levels, in headless Chromium without a GPU."""
    with Chromium() as browser:
        tab = browser.open(page, width=1600, height=1000)
        tab.wait(READY, 60)
        paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        yield Row("report: page: first paint", paint, "ms", 1000)
        yield Row("report: page: timeline ready", tab.evaluate("flowprof.timelineReady"), "ms", 2000)
        tab.evaluate(FRAMES)
        yield Row("report: page: slowest frame", max(tab.evaluate(FRAMES)), "ms", 50)
        tab.evaluate("flowprof.timeline.find('mul_mat')")
        yield Row("report: page: slowest frame, searching", max(tab.evaluate(FRAMES)), "ms", 50)


if __name__ == "__main__":
    for row in measured("--small" in sys.argv[1:]):
        print(row)
