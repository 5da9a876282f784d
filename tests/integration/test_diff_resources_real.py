"""Two runs of a small C program, one of which has one lock for everything: the diff names the lock and who had it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.result import Diff
from flowprof.profiler.diff.side import open_pair

pytestmark = pytest.mark.bpf
SECONDS = "3"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of each example of examples/, as it records itself."""
    folder = tmp_path_factory.mktemp("resources")
    found = {}
    for name in ("healthy_pool", "one_lock_for_all"):
        found[name] = str(folder / f"{name}.duckdb")
        command = [sys.executable, "-m", f"flowprof.examples.{name}", "-o", found[name], "-s", SECONDS]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert Path(found[name]).exists(), done.stdout + done.stderr
    return found


def diffed(normal: str, buggy: str) -> Diff:
    with open_pair([normal], buggy) as pair:
        found = compare(pair)
    print(found.headline, *found.resources, *found.causes, sep="\n")  # shown when a test fails
    return found


def test_a_lock_is_named_with_its_holder(recordings: dict[str, str]) -> None:
    """Four threads wait for it most of the time, behind each other; no graph ran, so times are per second."""
    found = diffed(recordings["healthy_pool"], recordings["one_lock_for_all"])
    first = found.causes[0]
    assert first.kind == "resource" and first.claim.startswith("section is waited for longer, behind in section (")
    shift = found.resources[0]
    assert (shift.resource, shift.per, shift.significant) == ("section", "s", True)
    assert (shift.a_waiting_ns or 0) < 0.01e9 and 1e9 < (shift.b_waiting_ns or 0) < 4e9
    assert found.verdict == "slower" and found.headline.startswith("section is waited for longer: 0 ms → ")
