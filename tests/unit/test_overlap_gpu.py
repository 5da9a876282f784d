"""Missed overlap on GPU timelines whose truth is known by construction."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flowprof.profiler import cli
from flowprof.profiler.analyzers import overlap
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.overlap import Overlap, OverlapTable
from flowprof.viewers import html, missed
from flowprof.viewers import json as json_viewer
from traces import Event, imported, kineto, nsys, nsys_tables, slice_, work

A100 = {"deviceProperties": [{"id": 0, "name": "A100"}]}  # as NanoFlow's table 1 rounds it
LAYERS, BATCH, HIDDEN, INTER, DEVICES = 80, 2048, 8192, 28672, 8
DECODING, PROMPT, CONTEXT, ANSWER = 1365, 683, 1024, 1024


def found(tmp_path: Path, events: list[Event], **facts: Any) -> OverlapTable:
    with imported(kineto(tmp_path / "a.json", events, **(A100 | facts))) as recording:
        return overlap.table(recording)


def exposed(table: OverlapTable) -> dict[str, int]:
    return {one.resource: one.exposed_ns for one in table.devices[0].times}


class Program:
    """Launches work, an operator each, all from one thread well before it runs."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.number = 0
        self.at = 1e6

    def run(self, name: str, us: float, dims: list[list[int]] | None = None, *, at: float | None = None,
            stream: int = 7, kernel: str = "kernel", cat: str = "kernel", launched: float | None = None,
            api: str = "cudaLaunchKernel", call_us: float = 0.5, **args: Any) -> float:  # fmt: skip
        """A slice behind the last one, or at `at`; returns its end. launched: when its call began."""
        self.number += 1
        call = launched if launched is not None else self.number * 2.0
        start = self.at if at is None else at
        if name:
            shapes = {"Input Dims": dims, "Input type": ["c10::Half"] * len(dims)} if dims else {}
            self.events.append(
                slice_("cpu_op", name, call - 0.2, call_us + 0.4, **{"External id": self.number}, **shapes)
            )
            args["External id"] = self.number
        self.events.append(slice_("cuda_runtime", api, call, call_us, correlation=self.number))
        self.events.append(work(cat, kernel, start, us, self.number, stream, **args))
        self.at = max(self.at, start + us)
        return start + us

    def gemm(self, us: float, m: int, k: int, n: int, **more: Any) -> float:
        return self.run("aten::mm", us, [[m, k], [k, n]], kernel="ampere_gemm", **more)

    def attention(self, us: float, batch: int, queries: int, keys: int, **more: Any) -> float:
        q, kv = [batch, HIDDEN // 128 // DEVICES, queries, 128], [batch, 1, keys, 128]
        return self.run("aten::_scaled_dot_product_flash_attention", us, [q, kv, kv], kernel="flash_fwd", **more)

    def network(self, us: float, **more: Any) -> float:
        return self.run("", us, kernel="ncclDevKernel_AllReduce_Sum_f16", **more)

    def copy(self, us: float, direction: str = "HtoD (Pageable -> Device)", **more: Any) -> float:
        return self.run("", us, kernel=f"Memcpy {direction}", cat="gpu_memcpy", **({"api": "cudaMemcpyAsync"} | more))

    def wait(self, begin: float, end: float, name: str = "cudaStreamSynchronize") -> None:
        self.events.append(slice_("cuda_runtime", name, begin, end - begin))

    def edge(self, recorded: float, at: float, waiting: int, awaited: int, correlation: int) -> None:
        """A stream waits for an event of another one, and the trace says so."""
        self.events += [
            slice_("cuda_runtime", "cudaEventRecord", recorded, 0.1, correlation=correlation),
            slice_("cuda_runtime", "cudaStreamWaitEvent", at, 0.05, correlation=correlation + 1),
            work("cuda_sync", "Stream Wait Event", at, 0.05, correlation + 1, waiting,
                 wait_on_stream=awaited, wait_on_cuda_event_record_corr_id=correlation),
        ]  # fmt: skip


MEASURED_MS = {"KQV": 16.08, "O": 16.01, "UG": 69.92, "D": 34.96, "DecAttn": 35.60, "PfAttn": 4.56, "Net": 47.92}


def nanoflow(gemm_stream: int = 7, other_stream: int = 7, together: bool = False) -> list[Event]:
    """Table 2 of NanoFlow (arXiv 2408.12757), its measured times, one of its eight GPUs, layer by layer.

    together: memory's and the network's work begins with the layer's products on another stream.
    """
    us = {name: ms * 1e3 / LAYERS for name, ms in MEASURED_MS.items()}
    program = Program()
    for _ in range(LAYERS):
        begin = program.at
        products = (("KQV", HIDDEN, (HIDDEN + 2 * HIDDEN // 8) // DEVICES), ("O", HIDDEN // DEVICES, HIDDEN),
                    ("UG", HIDDEN, 2 * INTER // DEVICES), ("D", INTER // DEVICES, HIDDEN))  # fmt: skip

        def product(number: int, products: Any = products) -> None:
            name, k, n = products[number]
            program.gemm(us[name], BATCH, k, n, stream=gemm_stream)

        def attention(at: float | None = None) -> None:
            program.attention(us["DecAttn"], DECODING, 1, CONTEXT, stream=other_stream, at=at)

        if together:
            attention(begin)
            program.network(us["Net"], stream=other_stream, at=begin + us["DecAttn"])
            program.at = begin
        product(0)
        program.attention(us["PfAttn"], 1, PROMPT, 512, stream=gemm_stream)
        if not together:
            attention()
        product(1)
        if not together:
            program.network(us["Net"] / 2)
        product(2)
        product(3)
        if not together:
            program.network(us["Net"] / 2)
    return program.events


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


# ---------------------------------------------------------------------- free


def free(table: OverlapTable) -> list[Overlap]:
    return [one for one in table.overlaps if one.kind == "free"]


def only(table: OverlapTable) -> Overlap:
    [one] = free(table)
    return one


def synchronised(
    api: str = "cudaStreamSynchronize",
    event: bool = False,
    first: str = "gemm",
    last: str = "cudaDeviceSynchronize",
    edges: Sequence[tuple[int, int, float]] = (),
) -> list[Event]:
    """400 µs of a product in stream 7, a wait for it, then 100 µs of a collective in stream 9, a wait; 20 times.

    edges: waiting stream, awaited stream, when its event was recorded (the product is launched at 0, waited for at 2).
    """
    program = Program()
    program.events.append(slice_("user_annotation", "train_step", -1, 1e9))
    for number in range(20):
        at = 1e6 + 1000 * number
        told = 10_000 + 1000 * number  # correlations of events
        for place, (waiting, awaited, recorded) in enumerate(edges):
            program.edge(at + recorded, at + 408 + place / 200, waiting, awaited, told + 2 * place)
        if first == "copy":
            program.copy(400, "HtoD (Pinned -> Device)", at=at + 5, launched=at)
        elif first == "to host":
            program.copy(400, "DtoH (Device -> Pinned)", at=at + 5, launched=at)
        else:
            program.gemm(400, 2048, 4096, 4096, at=at + 5, launched=at)
        program.wait(at + 2, at + 407, api)
        if event:
            program.wait(at + 408, at + 409, "cudaStreamWaitEvent")
        program.network(100, stream=9, at=at + 415, launched=at + 410)
        if last:
            program.wait(at + 412, at + 517, last)
    return program.events


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


# ---------------------------------------------------------------------- what is shown


def test_json_and_viewers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flowprof.profiler.report import timeline

    path = tmp_path / "a.duckdb"
    events = [*nanoflow(), slice_("user_annotation", "<script>x</script>\x1b[2J", 0, 5)]
    with imported(kineto(tmp_path / "a.json", events, **A100), path) as recording:
        report = build_report(recording)
        page = html.render(report, timeline(recording))
        document = json.loads(json_viewer.render(report))
        table = report.get(OverlapTable)
    assert table is not None
    [one] = document["overlap"]
    assert {"kind", "what", "ideal_ns", "aware_ns", "net_ns", "reason"} <= set(one)
    assert [finding["id"] for finding in document["findings"] if "overlap" in finding["id"]] == ["overlap.split"]
    assert 'id="overlap"' in page and "<rect class=" in page
    out = io.StringIO()
    for width in (60, 80, 200):
        missed.show(table, out, width)
    assert "half batches only" in out.getvalue() and "before" in out.getvalue()
    assert cli.main(["overlap", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overlap"] == document["overlap"]
    assert cli.main(["overlap", str(path)]) == 0
    assert "interference: NanoFlow" in capsys.readouterr().out


def test_a_terminal_without_utf_8(tmp_path: Path) -> None:
    table = found(tmp_path, synchronised())
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    missed.show(table, out, 80)
    out.flush()
    text = raw.getvalue().decode()
    assert "<= 1.33 ms" in text and "####" in text
    assert max(map(len, text.splitlines())) <= 80


def test_hostile_names(tmp_path: Path) -> None:
    from flowprof.profiler.report import timeline

    events = synchronised()
    for event in events:
        if event["cat"] == "kernel" and "nccl" in event["name"]:
            event["name"] = "nccl<script>alert(1)</script>\x1b[2J"
        if event["name"] == "train_step":
            event["name"] = "\x1b]0;x\x07<img src=x>"
    with imported(kineto(tmp_path / "a.json", events, **A100)) as recording:
        report = build_report(recording)
        page = html.render(report, timeline(recording))
    table = report.get(OverlapTable)
    assert table is not None and table.overlaps
    out = io.StringIO()
    missed.show(table, out)
    assert "\x1b" not in out.getvalue() and "\x1b" not in page
    assert "<script>alert" not in page and "<img src=x" not in page


def test_an_interference_table_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.duckdb"
    imported(kineto(tmp_path / "a.json", synchronised(), **A100), path).close()
    (tmp_path / "mine.toml").write_text("network = [[0.1, 1.0]]\n")
    assert cli.main(["overlap", str(path), "--json", "--interference", str(tmp_path / "mine.toml")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["overlap"][0]["aware_ns"] == pytest.approx(0.9 * told["overlap"][0]["ideal_ns"], rel=0.01)
    assert told["interference"].startswith("measured") and "does not say on which device" in told["interference"]
    (tmp_path / "mine.toml").write_text('device = "CPU"\nnetwork = [[0.1, 1.0]]\n')
    assert cli.main(["overlap", str(path), "--json", "--interference", str(tmp_path / "mine.toml")]) == 2
    assert "was measured on processors" in capsys.readouterr().err
    (tmp_path / "mine.toml").write_text('device = "NVIDIA H100"\nnetwork = [[0.1, 1.0]]\n')
    assert cli.main(["overlap", str(path), "--json", "--interference", str(tmp_path / "mine.toml")]) == 2
    assert "was measured on NVIDIA H100, and this is A100" in capsys.readouterr().err
    for device in ("A100", "nvidia a100"):
        (tmp_path / "mine.toml").write_text(f'device = "{device}"\nnetwork = [[0.1, 1.0]]\n')
        assert cli.main(["overlap", str(path), "--json", "--interference", str(tmp_path / "mine.toml")]) == 0
        assert json.loads(capsys.readouterr().out)["interference"].startswith(
            f"measured: {tmp_path}/mine.toml on {device}; memory")  # fmt: skip


def test_a_table_for_gpus_without_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.duckdb"
    imported(kineto(tmp_path / "a.json", synchronised(), deviceProperties=[]), path).close()
    (tmp_path / "mine.toml").write_text('device = "A100"\nnetwork = [[0.1, 1.0]]\n')
    assert cli.main(["overlap", str(path), "--json", "--interference", str(tmp_path / "mine.toml")]) == 0
    assert "which GPU was recorded is not known" in json.loads(capsys.readouterr().out)["interference"]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["overlap"], 2, "--model, --gpus, --batch are missing"),
        (["overlap", "a.duckdb", "--model", "llama2-70b"], 2, "two questions"),
        (["overlap", "/nowhere.duckdb"], 3, "nowhere"),
    ],
)
def test_bad_commands(capsys: pytest.CaptureFixture[str], command: list[str], code: int, words: str) -> None:
    assert cli.main(command) == code
    assert words in capsys.readouterr().err


def test_a_recording_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.duckdb"
    imported(kineto(tmp_path / "a.json", [slice_("user_annotation", "a", 0, 1)]), path).close()
    assert cli.main(["overlap", str(path)]) == 5
    assert "neither GPU work nor graphs" in capsys.readouterr().err
    imported(kineto(tmp_path / "b.json", [slice_("cpu_op", "a", 0, 1)]), tmp_path / "b.duckdb").close()
    assert cli.main(["overlap", str(tmp_path / "b.duckdb")]) == 0, "operators on processors have something to say"
    assert "operators of one thread" in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(12))
def test_any_trace_keeps_the_bounds(tmp_path: Path, seed: int) -> None:
    """Slices, copies and waits at random, some of them absurd: no failure, and no gain beyond what is there."""
    random = np.random.default_rng(seed)
    program = Program()
    whole = 10 ** int(random.integers(3, 13)) if seed % 2 else 100_000
    for _ in range(60):  # some that are what they seem
        m, k, n = (int(size) for size in random.integers(1000, 9000, 3))
        program.gemm(2 * m * k * n / 312e6 * random.uniform(1, 2), m, k, n, stream=int(random.integers(7, 9)))
        if random.random() < 0.5:
            program.network(float(random.integers(1, 900)), stream=int(random.integers(7, 9)))
    for _ in range(120 if seed % 2 else 40):
        at, us = 1e6 + float(random.integers(0, whole)), float(random.integers(0, max(2, whole // 100)))
        more: dict[str, Any] = {"at": at, "stream": int(random.integers(0, 4)) - 1,
                                "launched": at + float(random.integers(-50, 50)),
                                "call_us": float(random.integers(0, 100))}  # fmt: skip
        which = int(random.integers(0, 6))
        if which == 0:
            program.gemm(us, *(int(n) for n in random.integers(0, 9000, 3)), **more)
        elif which == 1:
            program.network(us, **more)
        elif which == 2:
            program.copy(us, str(random.choice(["HtoD (Pageable -> Device)", "DtoH (Device -> Pinned)", "PtoP", ""])),
                         **more)  # fmt: skip
        elif which == 3:
            program.wait(at, at + us, str(random.choice(["cudaDeviceSynchronize", "cudaStreamWaitEvent"])))
        else:
            program.attention(us, *(int(n) for n in random.integers(0, 3000, 3)), **more)
    with imported(kineto(tmp_path / "a.json", program.events, **A100)) as recording:
        outcome = overlap.ANALYZER.run(recording)
    assert outcome.status == "ok", outcome.reason
    table = outcome.value
    for device in table.devices:
        assert all(0 <= one.exposed_ns <= one.busy_ns <= device.span_ns for one in device.times)
    for one in table.overlaps:
        assert 0 < one.net_ns <= one.aware_ns <= one.ideal_ns <= min(one.exposed_ns, one.room_ns)
        assert one.ideal_ns <= one.base_ns
        assert one.picture is None or one.picture.after_ns <= one.picture.before_ns * 1.001 + 2
