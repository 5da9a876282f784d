"""`make bench` starts: its parts, and what they take from the tests, are there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "benchmarks" / "bench.py"


def test_every_part_is_there(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, BENCH, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "report" in done.stdout and "overhead" in done.stdout
