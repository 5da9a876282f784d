"""Missed overlap on GPU timelines whose truth is known by construction: exposed time, and half batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_programs import (
    CONTEXT,
    DECODING,
    MEASURED_MS,
    Program,
    exposed,
    found,
    free,
    nanoflow,
)
from traces import slice_, work


def test_nanoflow_s_measured_times_one_after_the_other(tmp_path: Path) -> None:
    table = found(tmp_path, nanoflow())
    assert exposed(table)["network"] / 1e6 == pytest.approx(47.92, rel=1e-4)
    assert exposed(table)["memory"] / 1e6 == pytest.approx(35.60, rel=1e-4)
    assert table.devices[0].span_ns / 1e6 == pytest.approx(sum(MEASURED_MS.values()), rel=1e-4)
    [one] = table.overlaps
    assert one.kind == "split-only"
    assert one.ideal_ns / 1e6 == pytest.approx(47.92 + 35.60, rel=1e-3)
    assert 175 <= (one.base_ns - one.aware_ns) / 1e6 <= 179
    assert one.net_ns == one.aware_ns - one.split_ns and one.split_ns == 0, "GEMMs stay bound by compute"
    assert "AllReduce" in one.what and "flash_attention" in one.what and "mm" in one.what
    assert one.picture is not None
    assert one.picture.after_ns < one.picture.before_ns
    assert one.picture.exact_ns is None or one.picture.list_ns >= one.picture.exact_ns


def test_the_same_operators_already_beside_each_other(tmp_path: Path) -> None:
    table = found(tmp_path, nanoflow(other_stream=9, together=True))
    assert exposed(table)["network"] <= 0.001 * table.devices[0].span_ns
    assert exposed(table)["memory"] <= 0.001 * table.devices[0].span_ns
    assert table.overlaps == ()


def test_two_products_in_series(tmp_path: Path) -> None:
    program = Program()
    for _ in range(50):
        program.gemm(600, 4096, 4096, 4096)
    table = found(tmp_path, program.events)
    assert table.overlaps == ()
    assert any("neither memory's nor the network's work is exposed" in why for why in table.refused)


def test_one_user_s_decode_needs_no_half_batches(tmp_path: Path) -> None:
    """Products of one row read their weights: no arithmetic to hide behind, though collectives are exposed."""
    program = Program()
    for _ in range(50):
        program.gemm(40, 1, 8192, 4096)
        program.network(20)
    table = found(tmp_path, program.events)
    assert exposed(table)["network"] == 50 * 20_000 and exposed(table)["memory"] == 50 * 40_000
    assert table.overlaps == ()
    assert any("no operator is bound by arithmetic" in why for why in table.refused)


def test_where_memory_is_the_scarce_resource(tmp_path: Path) -> None:
    program = Program()
    for _ in range(50):
        program.gemm(60, 2048, 2048, 2048)
        program.attention(446, DECODING, 1, CONTEXT)
    table = found(tmp_path, program.events)
    assert table.overlaps == ()
    assert any("memory is the scarce resource" in why for why in table.refused)


def test_training_does_not_shrink_with_the_batch(tmp_path: Path) -> None:
    events = [*nanoflow(), slice_("cpu_op", "autograd::engine::evaluate_function: MmBackward0", 0, 1)]
    table = found(tmp_path, events)
    assert table.overlaps == () and any("the recording trains" in why for why in table.refused)


def test_weights_of_operators_bound_by_memory_are_read_twice(tmp_path: Path) -> None:
    """400 µs of arithmetic and 100 µs of a product of 8 rows, which is its weights: half batches read them again."""
    program = Program()
    for _ in range(50):
        program.gemm(400, 2048, 4096, 4096)
        program.gemm(100, 8, 8192, 8192)
    table = found(tmp_path, program.events)
    assert exposed(table)["memory"] == 50 * 100_000
    assert table.overlaps == () and any("would gain 0 ms" in why for why in table.refused)


@pytest.mark.parametrize("graph", [False, True])
def test_the_nodes_of_a_graph_are_ordered_by_its_edges(tmp_path: Path, graph: bool) -> None:
    program = Program()
    for number in range(20):
        at = 1e6 + 1000 * number
        api = "cudaGraphLaunch" if graph else "cudaLaunchKernel"
        program.gemm(400, 2048, 4096, 4096, at=at, launched=at - 5, api=api)
        program.number -= 1  # the same launch
        events = len(program.events)
        program.copy(200, "HtoD (Pinned -> Device)", at=at + 415, launched=at - 5)
        if graph:
            del program.events[events]
    assert bool(free(found(tmp_path, program.events))) != graph


def test_work_of_an_unknown_resource_is_no_room(tmp_path: Path) -> None:
    events = [work("kernel", "mystery", 100 * n, 90, n + 1) for n in range(50)]
    events += [work("kernel", "ncclDevKernel_X", 100 * n + 90, 10, 100 + n) for n in range(50)]
    table = found(tmp_path, events)
    assert exposed(table)["network"] == 50 * 10_000
    assert table.overlaps == ()
    assert any("not known for 90 % of the busy time" in why for why in table.refused)
