"""Half an hour in the default mode: hardly any graph is measured, and the others take no room."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from flowprof.profiler.diff.steps import of_ggml
from flowprof.profiler.store import Recording
from synthetic import Synthetic, write


def test_graphs_that_are_not_measured_take_no_room(tmp_path: Path) -> None:
    """2 500 graphs of 384 groups, of which 100 are measured: a number for each group of each would be 8 MB."""
    path = str(tmp_path / "long.duckdb")
    truth = write(path, Synthetic(layers=10, threads=1, requests=5, tokens=499, cycle=("op", *("token",) * 24),
                                  graphs_per_window=4))  # fmt: skip
    with Recording.open(path) as recording:
        tracemalloc.start()
        decode = next(one for one in of_ggml.read(recording) if one.phase == "decode")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    measured = truth.measured_graphs["decode"]
    assert len(decode.all_ns) > 2400 and measured - 5 <= len(decode.start_ns) <= measured
    assert decode.ns[:, :-2].sum(axis=1) == pytest.approx(truth.measured_ns["decode"] / measured), "each its own"
    assert peak < 7e6, peak
