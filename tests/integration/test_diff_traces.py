"""Traces that others recorded, split in two: nothing changed within any of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowprof.profiler.diff import gate
from flowprof.profiler.diff.compare import compare
from flowprof.profiler.diff.side import open_parts
from flowprof.profiler.diff.steps import sources
from traces import SHARED, imported

pytestmark = pytest.mark.parallel

TRACES = {  # → steps of the first phase, 0: fewer than two
    "kineto/h100_qwen05b/trace.json.gz": 23,  # one pass of 24 layers: a layer is a step, and the last is cut off
    "kineto/sglang_decode_qwen3_8b/trace.json.gz": 35,  # one CUDA graph with 36 layers
    "kineto/vllm_decode_graph/trace.json.gz": 23,
    "kineto/event_sync_multi_stream/trace.json.gz": 0,
    "nsys/h100_2gpu_1s.sqlite": 27,
    "nsys/healthy_1pct.sqlite": 199,
}


@pytest.mark.parametrize("name", TRACES)
def test_halves_of_a_trace_are_alike(name: str, tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}")
    path = tmp_path / "x.duckdb"
    with imported(SHARED / name, path) as recording:
        phases = sources.read(recording)
    assert (len(phases[0].start_ns) if phases else 0) == TRACES[name]
    for steps in phases:
        assert steps.ns.sum(axis=1) == pytest.approx(steps.all_ns)
    if not phases:
        return
    with open_parts(str(path), int(phases[0].start_ns[len(phases[0].start_ns) // 2])) as pair:
        found = compare(pair)
    print(found.headline, *found.phases, *(row for row in found.rows if row.significant), sep="\n")
    assert found.phases, "the halves have the same phases"
    assert not any(row.significant or row.tail_significant for row in found.rows)
    assert not any(phase.significant for phase in found.phases)
    few = ("not enough data", "not comparable")  # the second: one half's step is other work than the other's
    assert found.verdict in (("same",) if TRACES[name] > 100 else few)
    assert found.causes == ()
    passed = gate.judge(found, 0.05)
    assert passed.outcome == ("within" if TRACES[name] > 100 else found.verdict), passed.sentence
