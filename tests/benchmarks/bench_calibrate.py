"""How long `flowprof calibrate` takes, as a user sees it: the whole command, with nothing in its cache.

python tests/benchmarks/bench_calibrate.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from row import Row


def measured() -> Iterator[Row]:
    """The time, and what it found with all processors."""
    command = (sys.executable, "-m", "flowprof.profiler.cli", "calibrate", "--json")
    with tempfile.TemporaryDirectory(prefix="flowprof-bench-") as folder:
        begun = time.perf_counter()
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, "FLOWPROF_CACHE": folder}
        )
        took = time.perf_counter() - begun
    found = json.loads(done.stdout)["ceiling"]
    most = max(one["threads"] for one in found)
    said = {
        f"{one['what']} {one['dtype']}".strip(): f"{one['value'] / 1e9:.3g}" for one in found if one["threads"] == most
    }
    note = f"{most} threads, 10⁹/s: " + ", ".join(f"{what} {value}" for what, value in said.items())
    yield Row("calibration", took, "s", 20, note=note)


if __name__ == "__main__":
    for row in measured():
        print(row)
