"""What `resources scan` finds of what was listed by hand, and how long it takes.

    python tests/benchmarks/bench_scan.py

Three programs: xllamacpp's library (llama.cpp's server, 106 MB), the example of tests/data as a binary and as source,
and DuckDB's library, on which the points of vocabulary.py were not set. Whole commands are timed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from row import Row

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scan_truth
from flowprof.profiler.scan import binary, candidates, source

EXAMPLE = scan_truth.DATA / "resource_program.c"


def measured() -> Iterator[Row]:
    """The rows, as they are measured."""
    llama = library("xllamacpp", "xllamacpp*.so")
    took = seconds(llama)
    yield Row(f"`resources scan`, library of {llama.stat().st_size / 1e6:.0f} MB", took, "s", 60)
    found = candidates.find(binary.read(str(llama)))
    yield from quality("llama.cpp's server", found, "llama_server_resources.toml", essential=True)
    with tempfile.TemporaryDirectory(prefix="flowprof-bench-") as folder:
        program = Path(folder, "program")
        subprocess.run(["gcc", "-O2", "-g", "-pthread", "-o", program, EXAMPLE], check=True)
        found = candidates.find(binary.read(str(program)))
        yield from quality("example, binary", found, "resource_program.toml")
    found = candidates.find(source.read(str(EXAMPLE)))
    yield from quality("example, source", found, "resource_program.toml")
    duckdb = next(Path(sys.prefix).glob("lib/python*/site-packages/_duckdb*.so"))
    yield Row(f"`resources scan`, library of {duckdb.stat().st_size / 1e6:.0f} MB", seconds(duckdb), "s", 60)
    found = candidates.find(binary.read(str(duckdb)))
    yield from quality("DuckDB, not set on", found, "duckdb_resources.toml", essential=True)


def quality(what: str, found: list[candidates.Candidate], truth: str, essential: bool = False) -> Iterator[Row]:
    """Precision of the whole draft and of its best ten; recall of all that is listed, and of what matters most."""
    score = scan_truth.measured(found, truth)
    best = scan_truth.measured(found, truth, most=10)
    note = f"{score.right} of {score.drafted}; of the best ten {best.right} of {best.drafted}"
    yield Row(f"scan, {what}: precision", 100 * score.right / max(1, score.drafted), "%", note=note)
    note = f"{score.found} of {score.listed}; missed: {', '.join(score.missed) or 'none'}"
    if essential:
        first = scan_truth.measured(found, truth, essential=True)
        note = f"{score.found} of {score.listed}, of the essential {first.found} of {first.listed}; missed: " + (
            ", ".join(score.missed) or "none"
        )
    yield Row(f"scan, {what}: recall", 100 * score.found / score.listed, "%", note=note)
    if score.events_listed:
        right = f"{score.events_found} of {score.events_listed}; {score.events_right} of {score.events_told} functions"
        yield Row(
            f"scan, {what}: events of found resources", 100 * score.events_found / score.events_listed, "%",
            note=f"{right} told are right",
        )  # fmt: skip


def seconds(path: Path) -> float:
    """The whole command."""
    began = time.monotonic()
    command = [sys.executable, "-m", "flowprof.profiler.cli", "resources", "scan", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def library(package: str, pattern: str) -> Path:
    """A library of an installed package."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return next(Path(spec.origin).parent.glob(pattern))


if __name__ == "__main__":
    for row in measured():
        print(row)
