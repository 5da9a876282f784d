"""Honest predictions: a planted pair is really run side by side, and gains what flowprof said that it would.

The timeline of the serial program is given to flowprof as a trace; the interference is measured on this machine by
`flowprof overlap --measure-interference`, with other sizes than the program's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from flowprof.profiler.analyzers import overlap
from flowprof.profiler.machine import ceilings
from flowprof.profiler.machine.calibrate import ONE_THREAD
from flowprof.profiler.machine.ceilings import Ceiling, Ceilings
from flowprof.profiler.overlap import interference, measure
from overlap_child import BLOCK, SIDE
from traces import Event, imported, kineto, slice_, work
from undisturbed import DISTURBED

ROUNDS = 7
GPU = {"deviceProperties": [{"id": 0, "name": "two processors"}]}
pytestmark = [DISTURBED, pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")]


def serial_trace(products: int, copies: int, gemm_us: float, copy_us: float) -> list[Event]:
    """As its profiler would have recorded it: the products, a wait for them, then the copies in another stream."""
    inner = SIDE * products
    dims = {"Input Dims": [[SIDE, inner], [inner, SIDE]], "Input type": ["float", "float"]}
    moved = {"Input Dims": [[BLOCK * copies]] * 2, "Input type": ["unsigned char"] * 2}
    events, at = [], 1e6
    for number in range(1, ROUNDS + 1):
        one, other = 2 * number, 2 * number + 1
        done = at + 10 + gemm_us
        events += [
            slice_("cpu_op", "aten::mm", at, 3, **{"External id": one}, **dims),
            slice_("cuda_runtime", "cudaLaunchKernel", at + 1, 1, correlation=one),
            work("kernel", "products", at + 10, gemm_us, one, **{"External id": one}),
            slice_("cuda_runtime", "cudaStreamSynchronize", at + 5, done + 2 - at - 5),
            slice_("cpu_op", "aten::copy_", done + 4, 3, **{"External id": other}, **moved),
            slice_("cuda_runtime", "cudaLaunchKernel", done + 5, 1, correlation=other),
            work("kernel", "copies", done + 10, copy_us, other, stream=9, **{"External id": other}),
        ]
        at = done + 20 + copy_us
    return events


def run_once(products: int, copies: int) -> tuple[float, float, float]:
    """Seconds of the products, of the copies, and of both side by side."""
    command = [sys.executable, str(Path(__file__).parent / "overlap_child.py"), str(products), str(copies), "1"]
    ran = subprocess.run(
        command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=True, timeout=120
    )
    ((gemm, copy, both),) = json.loads(ran.stdout)
    return gemm, copy, both


@pytest.mark.parametrize(("products", "copies"), [(12, 12), (8, 30)])
def test_the_predicted_gain_is_the_measured_one(tmp_path: Path, products: int, copies: int) -> None:
    """Interference and program take turns: how fast this host's memory is changes from one second to the next."""
    interfered, ran = [], []
    for _ in range(ROUNDS):
        interfered.append(measure.measure(rounds=1))
        ran.append(run_once(products, copies))
    table = tmp_path / "interference.toml"
    share, speed = (statistics.median(getattr(one, name) for one in interfered) for name in ("share", "speed"))
    measure.write(replace(interfered[0], share=share, speed=speed), str(table))
    gemm, copy, both = (min(times) for times in zip(*ran, strict=True))  # of each the round that nobody disturbed
    measured = gemm + copy - both
    flops, size = 2 * SIDE**3 * products / gemm, 2 * BLOCK * copies / copy
    own = Ceilings("two processors", (
        Ceiling("dram_read", "", 0, size, size, size, "the copies alone"),
        Ceiling("gemm", "f32", 0, flops, flops, flops, "the products alone"),
    ))  # fmt: skip
    trace = kineto(tmp_path / "a.json", serial_trace(products, copies, gemm * 1e6, copy * 1e6), **GPU)
    with imported(trace) as recording:
        recording.shadow("ceiling", ceilings.rows(own))
        found = overlap.table(recording, interference.read(str(table)))
    [one] = [one for one in found.overlaps if one.kind == "free"]
    predicted = one.net_ns / ROUNDS / 1e9
    print(f"serial {gemm:.3f} + {copy:.3f} s, side by side {both:.3f} s; predicted gain {predicted:.3f} s")
    print(f"R {share:.3f}, P {speed:.3f}", *ran, sep="\n")
    assert (one.what, one.culprit) == ("copy_ beside mm", "cudaStreamSynchronize")
    assert measured > 0.2 * min(gemm, copy), "this machine runs the two at once"
    assert predicted == pytest.approx(measured, rel=0.25)
