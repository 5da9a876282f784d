"""Really measured, briefly: the figures are sane, stay in the cache, and their faults are stated. Nothing is timed."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path

import pytest
import torch_engine
from flowprof.profiler.machine import calibrate, ceilings, ceilings_file, processor
from flowprof.profiler.machine.ceilings import Ceilings

HAS_INT8 = calibrate.libraries() and bool(processor.instructions(processor.read().flags, os.uname().machine, "int8"))
HAS_BF16 = os.uname().machine == "x86_64" and bool(processor.instructions(processor.read().flags, "x86_64", "bf16"))


@pytest.fixture(scope="module")
def measured() -> Ceilings:
    return calibrate.measure([1], budget_s=15)


def test_figures_are_sane(measured: Ceilings) -> None:
    assert measured.items
    for item in measured.items:
        assert math.isfinite(item.value) and 1e8 < item.low <= item.value == item.high
        assert item.threads == 1
        assert item.source.startswith("measured 20") and "best of" in item.source and item.source.isprintable()
    memory, cache = measured.get("dram_read", 1), measured.get("l2_read", 1)
    assert memory is not None and measured.get("gemm", 1, "f32") is not None
    assert cache is None or cache.value >= 0.8 * memory.value
    known = {item.dtype for item in measured.items} | {what.removeprefix("gemm ") for what, _ in measured.missing}
    assert {"f32", "bf16", "f16", "int8"} <= known


@pytest.mark.skipif(not HAS_INT8, reason="no int8 instructions, or no flowprof[calibrate]")
def test_int8_is_measured_by_its_own_instructions(measured: Ceilings) -> None:
    found = measured.get("gemm", 1, "int8")
    assert found is not None and "onnxruntime" in found.source


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="no flowprof[calibrate]")
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_the_paths_of_other_machines_run(dtype: str) -> None:
    """On x86-64 onnxruntime converts to f32 and is never asked for them: this checks only that they compute."""
    found = calibrate.measure([1], budget_s=10, dtypes=[dtype]).get("gemm", 1, dtype)
    assert found is not None and found.value > 0


@pytest.mark.skipif(not HAS_BF16, reason="no bf16 instructions")
def test_bf16_is_multiplied_by_its_own_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = next((torch_engine.python().parents[1] / "lib").glob("python3*/site-packages"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(installed)]))
    found = calibrate.measure([1], budget_s=60, dtypes=["f32", "bf16"])
    half, single = found.get("gemm", 1, "bf16"), found.get("gemm", 1, "f32")
    assert half is not None and "PyTorch" in half.source, found.missing
    assert single is not None and half.value > single.value  # converted it would be slower


def test_out_of_time_is_stated() -> None:
    found = calibrate.measure([1], budget_s=0)
    assert found.items == ()
    assert "no time was left" in dict(found.missing)["dram_read with 1 thread"]


def test_a_child_that_dies_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")  # it cannot even start
    found = calibrate.measure([1], budget_s=5)
    assert found.items == ()
    assert "the measuring process ended" in dict(found.missing)["dram_read with 1 thread"]


def test_command(flowprof, tmp_path: Path) -> None:
    env = {"FLOWPROF_CACHE": str(tmp_path / "cache"), "SUDO_UID": ""}
    first = flowprof("calibrate", "--threads", "1", "--json", env=env)
    assert first.returncode == 0 and "dram_read" in first.stderr
    shown = json.loads(first.stdout)
    assert {one["what"] for one in shown["ceiling"]} >= {"dram_read", "gemm"}
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.read_text() == first.stdout  # what it prints is what --ceilings reads
    assert ceilings_file.load(kept).items
    if not any(ceilings.DISTURBED in one["source"] for one in shown["ceiling"]):
        again = flowprof("calibrate", "--threads", "1", env=env)
        assert again.returncode == 0 and "known from" in again.stdout and "…" not in again.stderr
    assert flowprof("calibrate", "--threads", "0", env=env).returncode == 2


def test_a_module_of_the_working_directory_is_not_imported(flowprof, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit(99)")
    (tmp_path / "numpy.py").write_text("raise SystemExit(99)")
    found = calibrate._Child()
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with found:
            request = {"kind": "f32", "threads": 1, "bytes": 0, "cpus": [0], "seconds": 0.05}
            answers = list(found.ask(request))
    finally:
        os.chdir(before)
    assert answers[0]["rates"] and answers[-1] == {"done": True}
