"""Every example that plants a cause in a server, run as a user runs it: flowprof attaches to it and names the cause."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import flowprof.examples
import pytest
from flowprof.examples.planted import Planted
from undisturbed import UNDISTURBED, run_until_named, told_of

pytestmark = [pytest.mark.bpf, pytest.mark.engine]

FOLDER = Path(flowprof.examples.__path__[0])
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py") if "\nPLANTED = Planted(" in path.read_text())
DEAREST = ("blocked_thread", "throttled", "uneven_work")  # what else runs here costs the server less


def test_there_are_examples() -> None:
    assert {"preempted", "memory_bound", "long_context"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_cause_is_named(name: str, tmp_path: Path) -> None:
    planted: Planted = importlib.import_module(f"flowprof.examples.{name}").PLANTED
    output = tmp_path / "planted.duckdb"
    command = [sys.executable, "-m", f"flowprof.examples.{name}", "-o", str(output)]
    done = run_until_named(command, **(UNDISTURBED if name in DEAREST else {}))
    assert f"planted: {planted.finding}" in done.stdout.splitlines()[-1]
    if name in DEAREST:
        assert f"planted: {planted.finding}, finding 1 of " in done.stdout.splitlines()[-1]
    assert planted.finding in {finding["id"] for finding in told_of(output)["findings"]}
    assert not list(tmp_path.glob("*.gguf")), "nothing is left behind"
