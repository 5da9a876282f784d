"""Every example that plants a cause in a program of its own, run as a user runs it: CUDA calls (on a stub, no GPU is
needed), resources, and traces."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import flowprof.examples
import pytest
from flowprof.examples.cuda_program import Called
from flowprof.examples.planted_resource import DECOY, PlantedResource
from undisturbed import UNDISTURBED, run_until_named, told_of

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

FOLDER = Path(flowprof.examples.__path__[0])
CALLED = sorted(path.stem for path in FOLDER.glob("*.py") if "\nPLANTED = Called(" in path.read_text())
TRACED = sorted(path.stem for path in FOLDER.glob("*.py") if "\nTRACED = " in path.read_text())
RESOURCES = sorted(path.stem for path in FOLDER.glob("*.py") if "\nRESOURCE = " in path.read_text())


def test_there_are_examples() -> None:
    assert {"drained_gpu", "shared_gpu"} <= set(CALLED)
    assert {"half_batches", "pageable_copy"} <= set(TRACED)
    assert {"scan_floods_pool", "healthy_pool"} <= set(RESOURCES)


@pytest.mark.parametrize("name", CALLED)
def test_the_cause_is_named(name: str, tmp_path: Path) -> None:
    planted: Called = importlib.import_module(f"flowprof.examples.{name}").PLANTED
    output = tmp_path / "planted.duckdb"
    done = run_until_named([sys.executable, "-m", f"flowprof.examples.{name}", "-o", str(output)])
    assert f"planted: {planted.finding}" in done.stdout.splitlines()[-1]
    assert planted.finding in {finding["id"] for finding in told_of(output)["findings"]}
    assert [path.name for path in tmp_path.iterdir()] == [output.name], "nothing is left behind"


@pytest.mark.parametrize("name", TRACED)
def test_the_cause_in_a_trace_is_named(name: str, tmp_path: Path) -> None:
    output = tmp_path / "traced.duckdb"
    command = [sys.executable, "-m", f"flowprof.examples.{name}", "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    finding = importlib.import_module(f"flowprof.examples.{name}").TRACED.finding
    assert done.stdout.splitlines()[-1].startswith(f"planted: {finding}, finding ")
    assert [path.name for path in tmp_path.iterdir()] == [output.name], "nothing is left behind"


@pytest.mark.parametrize(
    ("name", "said"),
    [("doubtful_events", "planted: page, contention by scan "), ("small_ring", "planted: losses.withh")],
)
def test_spoiled_recordings(name: str, said: str, tmp_path: Path) -> None:
    """With wrong events the scan stays first in 9 of 10 reports; with lost ones nobody is blamed."""
    output = tmp_path / "spoiled.duckdb"
    done = run_until_named([sys.executable, "-m", f"flowprof.examples.{name}", "-o", str(output)], **UNDISTURBED)
    assert done.stdout.splitlines()[-1].startswith(said)
    if name == "small_ring":
        told = told_of(output)
        assert told["resources"] == [] and told["losses"]["by_place"]["ring"] > 100
        assert [finding["id"] for finding in told["findings"]] == ["losses.withheld"]


@pytest.mark.parametrize("name", RESOURCES)
def test_the_report_agrees_with_the_program(name: str, tmp_path: Path) -> None:
    """On the trouble, its holder, its victims and the chain; where nothing is planted nothing is reported, at the first
    try. The hottest function is never to blame."""
    planted: PlantedResource = importlib.import_module(f"flowprof.examples.{name}").RESOURCE
    output = tmp_path / "planted.duckdb"
    command = [sys.executable, "-m", f"flowprof.examples.{name}", "-o", str(output)]
    tries = {} if planted.pathology or planted.ends else {"tries": 1}
    done = run_until_named(command, **tries, **UNDISTURBED)
    assert done.stdout.splitlines()[-1].startswith("they agree")
    told = told_of(output)
    assert DECOY not in json.dumps([one["holder"] for one in told["resources"]])
    if planted.pathology:
        assert told["findings"][0]["id"] == f"resources.{planted.pathology.replace(' ', '_')}"
