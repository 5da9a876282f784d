"""Independent work on a GPU that a synchronise, a copy or one stream kept apart, on timelines whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler.analyzers import overlap
from gpu_programs import (
    Program,
    found,
    free,
    only,
    synchronised,
)
from traces import imported, nsys, nsys_tables, slice_, work


def test_a_synchronise_between_independent_streams(tmp_path: Path) -> None:
    one = only(found(tmp_path, synchronised()))
    assert (one.kind, one.count, one.confidence) == ("free", 20, "low")
    assert one.culprit == "cudaStreamSynchronize in train_step"
    assert one.what == "ncclDevKernel_AllReduce_Sum_f16 beside mm"
    assert one.ideal_ns == pytest.approx(20 * 100e3, rel=0.01)
    assert one.aware_ns == pytest.approx(20 * 100e3 * 2 / 3, rel=0.02), "κ = 1/3"
    assert one.net_ns == one.aware_ns and "its order" in one.reason


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"event": True, "last": ""}, ""),  # an event may order the two
        ({"first": "copy", "last": ""}, "may read what was copied"),
        ({"first": "to host", "last": ""}, "may need the data"),
        ({"api": "cudaDeviceSynchronize"}, "take turns"),
    ],
)
def test_waits_that_may_be_needed(tmp_path: Path, how: dict[str, Any], why: str) -> None:
    table = found(tmp_path, synchronised(**how))
    assert free(table) == []
    assert not why or any(why in one for one in table.refused)


@pytest.mark.parametrize(
    ("edges", "ordered"),
    [
        ([(9, 7, 1)], True),  # the collective's stream waits for the product's
        ([(9, 7, -1)], False),  # for what was there before the product
        ([(11, 7, 1)], False),  # another stream waits for the product
        ([(9, 13, 1)], False),  # the collective's stream waits for another one
        ([(11, 7, 1), (9, 11, 408.002)], True),  # for a stream that waits for the product
        ([(11, 7, 1), (9, 11, 1)], False),  # and for what was there before it did
        ([(9, -1, 1)], True),  # the trace does not say for which stream
        ([(-1, -1, 1)], True),  # nor which one waits
        ([(11, 13, 1)] * 250, False),
        ([(11, 13, 1)] * 260, True),  # more than are looked at
    ],
)
def test_events_order_their_own_streams(tmp_path: Path, edges: list[tuple[int, int, float]], ordered: bool) -> None:
    table = found(tmp_path, synchronised(edges=edges))
    if ordered:
        assert free(table) == []
        assert any("an event or the default stream orders the two" in one for one in table.refused)
    else:
        assert only(table).count == 20


def test_a_wait_is_for_its_own_stream(tmp_path: Path) -> None:
    """A kernel of stream 11 ends with the wait, too: it is not what was waited for."""
    events = synchronised()
    waits = [event for event in events if event["name"] == "cudaStreamSynchronize"]
    for number, event in enumerate(waits):
        event["args"]["correlation"] = 10_000 + number
        other = 20_000 + number
        events += [
            work("cuda_sync", "Stream Sync", event["ts"], event["dur"], 10_000 + number, 7),
            slice_("cuda_runtime", "cudaLaunchKernel", event["ts"] - 0.5, 0.2, correlation=other),
            work("kernel", "other", event["ts"] + 380, 24, other, 11),
        ]
    one = only(found(tmp_path, events))
    assert (one.count, one.what) == (20, "ncclDevKernel_AllReduce_Sum_f16 beside mm")
    untold = found(tmp_path, [event for event in events if event["cat"] != "cuda_sync"])
    assert "cudaStreamSynchronize in train_step" not in [one.culprit for one in untold.overlaps]


@pytest.mark.parametrize(
    ("flags", "confidence"),
    [
        ({}, "low"),  # 7 may be the default stream
        ({7: 3, 13: 2}, "medium"),  # it is, and the other one does not wait for it
        ({7: 3, 13: 1}, None),  # the other one waits
        ({7: 1, 13: 3}, None),  # 7 is not, but the other one is
        ({7: 1, 13: 1}, "medium"),
    ],
)
def test_the_default_stream_orders_blocking_ones(tmp_path: Path, flags: dict[int, int], confidence: str | None) -> None:
    """A copy from pageable memory in stream 7 holds the host, which then launches for stream 13; by nsys."""
    process, tables = 20 << 24, nsys_tables()
    columns = {name: table[0] for name, table in tables.items()}
    begin = [1_000_000 * number for number in range(1, 21)]
    tables["CUPTI_ACTIVITY_KIND_MEMCPY"] = (
        columns["CUPTI_ACTIVITY_KIND_MEMCPY"],
        [(at + 5_000, at + 305_000, 0, 7, at, process, 512, 1, 0, 2) for at in begin],
    )
    tables["CUPTI_ACTIVITY_KIND_KERNEL"] = (
        columns["CUPTI_ACTIVITY_KIND_KERNEL"],
        [(at + 315_000, at + 700_000, 0, 13, at + 1, process, 1, 2, 8, 1, 1) for at in begin],
    )
    tables["CUPTI_ACTIVITY_KIND_RUNTIME"] = (
        columns["CUPTI_ACTIVITY_KIND_RUNTIME"],
        [
            row
            for at in begin
            for row in ((at, at + 306_000, process + 21, at, 5), (at + 310_000, at + 312_000, process + 21, at + 1, 3))
        ],
    )
    tables["StringIds"] = (columns["StringIds"], [*tables["StringIds"][1], (5, "cudaMemcpyAsync_v3020")])
    tables["TARGET_INFO_CUDA_STREAM"] = (
        "streamId INTEGER, processId INTEGER, flag INTEGER",
        [(stream, 20, flag) for stream, flag in flags.items()],
    )
    with imported(nsys(tmp_path / "a.sqlite", tables)) as recording:
        table = overlap.table(recording)
    if confidence is None:
        assert free(table) == []
        assert any("the default stream orders the two" in one for one in table.refused)
    else:
        assert (only(table).confidence, only(table).count) == (confidence, 20)


def test_small_kernels_around_do_not_hide_the_pair(tmp_path: Path) -> None:
    program = Program()
    for number in range(20):
        at = 1e6 + 1000 * number
        program.gemm(400, 2048, 4096, 4096, at=at + 5, launched=at)
        program.run("", 3, kernel="bias", at=at + 406, launched=at + 1)
        program.wait(at + 2, at + 411)
        program.run("", 3, kernel="prepare", stream=9, at=at + 416, launched=at + 412)
        program.network(100, stream=9, at=at + 420, launched=at + 413)
    one = only(found(tmp_path, program.events))
    assert one.what == "ncclDevKernel_AllReduce_Sum_f16 beside mm"
    assert one.ideal_ns == pytest.approx(20 * 100e3, rel=0.01)


def test_a_copy_to_the_device_among_what_is_awaited(tmp_path: Path) -> None:
    program = Program()
    for number in range(20):
        at = 1e6 + 1000 * number
        program.copy(50, "HtoD (Pinned -> Device)", at=at + 5, launched=at)
        program.gemm(400, 2048, 4096, 4096, at=at + 60, launched=at + 1)
        program.wait(at + 2, at + 462)
        program.network(100, stream=9, at=at + 470, launched=at + 464)
    table = found(tmp_path, program.events)
    assert free(table) == [] and any("may read what was copied" in why for why in table.refused)


def test_the_same_stream_needs_no_synchronise_to_be_serial(tmp_path: Path) -> None:
    events = synchronised()
    for event in events:
        event["args"]["stream"] = 7 if "stream" in event["args"] else None
    assert free(found(tmp_path, events)) == []


@pytest.mark.parametrize(
    ("stream", "api", "confidence"),
    [(11, "cudaMemcpyAsync", "medium"), (7, "cudaMemcpyAsync", "low"), (11, "cudaMemcpy", None)],
)
def test_a_pageable_copy_that_keeps_the_host(tmp_path: Path, stream: int, api: str, confidence: str | None) -> None:
    """A copy of 500 µs in stream 9 holds the host; then it launches 600 µs of a product for another stream.

    7 is the default stream, which may order them; and behind a synchronous copy the program may rely on it."""
    program = Program()
    for number in range(20):
        at = 1e6 + 2000 * number
        program.copy(500, at=at + 5, launched=at, call_us=510, stream=9, api=api)
        program.gemm(600, 4096, 4096, 4096, at=at + 520, launched=at + 512, stream=stream)
        program.wait(at + 515, at + 1125)
    table = found(tmp_path, program.events)
    if confidence is None:
        assert api not in [one.culprit for one in table.overlaps]
        return
    one = only(table)
    assert (one.kind, one.count, one.confidence) == ("free", 20, confidence)
    assert one.culprit == "cudaMemcpyAsync" and one.reason.startswith("pageable copy")
    assert one.what == "Memcpy HtoD (Pageable -> Device) beside mm"
    assert one.ideal_ns == pytest.approx(20 * 500e3, rel=0.01)


@pytest.mark.parametrize(("launched", "advised"), [(100, True), (410, False)])
def test_a_copy_behind_a_kernel_in_its_stream(tmp_path: Path, launched: float, advised: bool) -> None:
    """Asked for while the kernel ran, it needs nothing of it; asked for afterwards, who knows."""
    program = Program()
    for number in range(20):
        at = 1e6 + 1000 * number
        program.gemm(400, 2048, 4096, 4096, at=at, launched=at - 5)
        program.copy(200, "HtoD (Pinned -> Device)", at=at + 415, launched=at + launched)
    table = found(tmp_path, program.events)
    if not advised:
        assert free(table) == []
        return
    one = only(table)
    assert (one.kind, one.culprit, one.count) == ("free", "same stream", 20)
    assert one.what == "Memcpy HtoD (Pinned -> Device) beside mm"
    assert one.ideal_ns == pytest.approx(20 * 200e3, rel=0.01)


def test_a_kernel_is_room_once(tmp_path: Path) -> None:
    """Ten copies of 100 µs wait for one kernel of 300 µs."""
    program = Program()
    for number in range(20):
        at = 1e6 + 2000 * number
        program.gemm(300, 2048, 4096, 4096, at=at, launched=at - 5)
        for copy in range(10):
            program.copy(100, "HtoD (Pinned -> Device)", at=at + 300 + 100 * copy, launched=at + copy)
    one = only(found(tmp_path, program.events))
    assert one.count == 200
    assert one.ideal_ns == pytest.approx(20 * 300e3, rel=0.02)


@pytest.mark.parametrize(("launched", "advised"), [(390, True), (650, False)])
def test_kernels_behind_a_copy_to_the_host(tmp_path: Path, launched: float, advised: bool) -> None:
    program = Program()
    for number in range(20):
        at = 1e6 + 2000 * number
        program.gemm(400, 2048, 4096, 4096, at=at, launched=at - 5)
        program.copy(200, "DtoH (Device -> Pinned)", at=at + 400, launched=at + 5)
        program.gemm(400, 2048, 4096, 4096, at=at + 660, launched=at + launched)
    table = found(tmp_path, program.events)
    assert [one.culprit for one in free(table)] == (["same stream"] if advised else [])
    if advised:
        assert free(table)[0].ideal_ns == pytest.approx(20 * 200e3, rel=0.01)
