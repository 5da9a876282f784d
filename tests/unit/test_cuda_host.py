"""What is said of CUDA's host side, on calls whose truth is known: what must hold, and nothing of the GPU's time."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from device_calls import Program
from flowprof.profiler.analyzers.cuda_host import table
from flowprof.profiler.analyzers.cuda_streams import Completions, Queue
from flowprof.profiler.report import build_report
from flowprof.profiler.report import timeline as draw
from flowprof.profiler.sections.cuda_host import CudaHost
from flowprof.viewers import cuda, html, terminal
from flowprof.viewers import json as json_viewer
from traces import imported, kineto, slice_, step, work

US = 1000
A, B = 0xA000, 0xB000


def host(path: Path, program: Program) -> CudaHost:
    with program.write(path / "a.duckdb") as recording:
        return table(recording)


def ids(path: Path, program: Program) -> list[str]:
    with program.write(path / "a.duckdb") as recording:
        return sorted(finding.id for finding in build_report(recording).findings)


def test_a_stream_is_drained_from_a_wait_to_the_next_launch(tmp_path: Path) -> None:
    """Launches at 0 and 10, a wait that ends at 50, the next launch at 90, never waited for."""
    program = Program()
    for at in (0, 10, 90):
        program.launch(at, A)
    program.sync(20, 30, A)
    found = host(tmp_path, program)
    [one] = found.streams
    assert (one.drained, one.drained_ns, one.longest_drained_ns) == (1, 40 * US, 40 * US)
    assert (one.launches, one.depth, one.waits, one.wait_ns) == (3, 2, 1, 30 * US)
    assert (one.span_ns, one.launches_per_s) == (95 * US, pytest.approx(3 / 95e-6))
    assert found.drained_ns == 40 * US


@pytest.mark.parametrize("late", ["queued by another thread", "queued while it waited", "failed wait"])
def test_what_is_not_certain_is_not_said(tmp_path: Path, late: str) -> None:
    program = Program()
    program.launch(0, A)
    program.sync(10, 40, A, result=700 if late == "failed wait" else 0)
    if late == "queued by another thread":
        program.launch(8, A, tid=2, dur=4)  # begins before the wait, ends in it: it may not be waited for
    if late == "queued while it waited":
        program.launch(20, A, tid=2)
    program.launch(90, A)
    found = host(tmp_path, program)
    assert found.streams[0].drained_ns == 0 == found.drained_ns


def test_the_device_is_drained_when_all_its_streams_are(tmp_path: Path) -> None:
    """A empty from 30 to 100, B from 60 to 80: both, from 60 to 80; after 100 nothing is known of A."""
    program = Program()
    program.launch(0, A)
    program.launch(5, B, tid=2)
    program.sync(10, 20, A)
    program.sync(10, 50, B, tid=2)
    program.launch(80, B, tid=2)
    program.launch(100, A)
    program.sync(110, 10, B, tid=2)
    program.launch(150, B, tid=2)
    found = host(tmp_path, program)
    assert {one.stream: one.drained_ns for one in found.streams} == {A: 70 * US, B: (20 + 30) * US}
    assert found.drained_ns == 20 * US
    program.sync(200, 10, None)
    program.launch(250, A)
    assert host(tmp_path, program).drained_ns == (20 + 40) * US, "a wait for the device is for every stream"


def test_events_complete_what_was_queued_before_them(tmp_path: Path) -> None:
    """An event recorded after the first launch: its wait says nothing of the second."""
    program = Program()
    program.launch(0, A)
    program.call("cudaEventRecord", 10, 1, A, address=7)
    program.call("cudaEventSynchronize", 20, 10, None, address=7)
    program.launch(50, A)
    program.call("cudaEventRecord", 60, 1, A, address=7)
    program.launch(65, A)
    program.call("cudaEventSynchronize", 70, 10, None, address=7)
    program.launch(100, A)
    found = host(tmp_path, program)
    assert found.streams[0].drained_ns == 20 * US
    assert found.streams[0].wait_ns == 20 * US
    for result, drained in ((0, 30 * US), (600, 0)):  # asked, in place of waited for: done, not yet
        program = Program()
        program.launch(0, A)
        program.call("cudaEventRecord", 10, 1, A, address=7)
        program.call("cudaEventQuery", 20, 1, None, address=7, result=result)
        program.launch(51, A)
        found = host(tmp_path, program)
        assert (found.streams[0].drained_ns, found.failed) == (drained, 0)


def test_streams_that_wait_for_streams(tmp_path: Path) -> None:
    """B waits for A's event, the host for B: A is complete up to the event, and no further."""
    program = Program()
    program.launch(0, A)
    program.call("cudaEventRecord", 10, 1, A, address=7)
    program.call("cudaStreamWaitEvent", 12, 1, B, address=7)
    program.launch(15, B)
    program.sync(30, 20, B)
    program.launch(100, A)
    assert {one.stream: one.drained_ns for one in host(tmp_path, program).streams} == {A: 50 * US, B: 0}
    program.launch(20, A, tid=2)
    assert {one.stream: one.drained_ns for one in host(tmp_path, program).streams} == {A: 0, B: 0}


def test_queues_against_a_simulation() -> None:
    """Depth and drained stretches of random programs, against a walk through them call by call."""
    random = np.random.default_rng(5)
    for _ in range(300):
        works = int(random.integers(1, 12))
        start = np.sort(random.choice(200, works, replace=False)).astype(np.int64)
        end = start + random.integers(0, 9, works)
        at = random.integers(0, 220, int(random.integers(0, 8))).astype(np.int64)
        until = at - random.integers(0, 20, len(at))
        queue = Queue(start, np.sort(end), Completions.of(at, until))

        def open_at(moment: int, inclusive: bool, pairs: list[tuple[int, int]], works: list[tuple[int, int]]) -> int:
            covered = max((until for at, until in pairs if at <= moment), default=-1)
            return sum(1 for s, e in works if (s <= moment if inclusive else s < moment) and e > covered)

        pairs = list(zip(at.tolist(), until.tolist(), strict=True))
        calls = list(zip(start.tolist(), end.tolist(), strict=True))
        assert queue.depth() == max(open_at(moment, True, pairs, calls) for moment, _ in calls)
        drained = {
            moment for moment in range(-20, 230)
            if any(s <= moment for s, _ in calls) and any(s > moment for s, _ in calls)
            and any(known <= moment for known, _ in pairs) and open_at(moment, True, pairs, calls) == 0
        }  # fmt: skip
        begin, stop = queue.drained()
        told = {moment for b, e in zip(begin.tolist(), stop.tolist(), strict=True) for moment in range(b, e)}
        assert told == drained


def serial(rounds: int = 10, **order: bool) -> Program:
    """Work for A, a wait of 100 µs, work for B, a wait of 50 µs; optionally an event or a copy in between."""
    program = Program()
    for number in range(rounds):
        at = 200.0 * number
        program.launch(at, A)
        if order.get("copied"):
            program.call("cudaMemcpyAsync", at + 5, 1, A, bytes=4, direction="DtoH", host_memory="pinned")
        program.sync(at + 8, 100, A)
        if order.get("ordered"):
            program.call("cudaStreamWaitEvent", at + 109, 1, B, address=7)
        program.launch(at + 110, B)
        program.sync(at + 118, 50, B)
    return program


def test_a_wait_between_independent_streams_is_named(tmp_path: Path) -> None:
    found = host(tmp_path, serial())
    first, second = found.serialised
    assert (first.function, first.waited_for, first.held_back) == ("cudaStreamSynchronize", A, B)
    assert (first.calls, first.held_ns) == (9, 9 * 58 * US), "B's work took 58 µs at most: no more can be saved"
    assert (second.waited_for, second.held_back, second.calls, second.held_ns) == (B, A, 9, 9 * 50 * US)
    with serial().write(tmp_path / "a.duckdb") as recording:
        [finding] = [one for one in build_report(recording).findings if one.id == "cuda_host.serialised"]
    assert "stream 0xa000 holds back stream 0xb000" in finding.claim
    assert "0.522 ms" in finding.claim, "once for the pair, not once for each"


@pytest.mark.parametrize("order", ["ordered", "copied"])
def test_a_wait_with_a_reason_is_not(tmp_path: Path, order: str) -> None:
    found = host(tmp_path, serial(**{order: True}))
    assert [(one.waited_for, one.held_back) for one in found.serialised] == [(B, A)]


def test_one_stream_is_never_serialised_with_itself(tmp_path: Path) -> None:
    program = Program()
    for number in range(20):
        program.launch(100.0 * number, A)
        program.sync(100.0 * number + 10, 60, A)
    assert host(tmp_path, program).serialised == ()


def burst(wait_us: float) -> Program:
    program = Program()
    for number in range(200):
        program.launch(10.0 * number, A, dur=8)
    program.sync(2000, wait_us, A)
    program.launch(2000 + wait_us + 5, A)
    return program


def test_two_hundred_tiny_launches(tmp_path: Path) -> None:
    found = host(tmp_path, burst(100))
    assert (found.bursts, found.burst_launches, found.burst_ns) == (1, 200, 2100 * US)
    assert found.streams[0].launch_ns == pytest.approx((200 * 8 + 5) / 201 * US)
    assert "cuda_host.launch_bound" in ids(tmp_path, burst(100))
    assert host(tmp_path, burst(1000)).bursts == 0, "the GPU was not done by then: its kernels set the pace"
    assert "cuda_host.launch_bound" not in ids(tmp_path, burst(1000))


def test_a_graph_is_one_launch(tmp_path: Path) -> None:
    program = Program()
    for number in range(3):
        program.launch(10.0 * number, A)
    program.call("cudaGraphLaunch", 40, 7, A)
    found = host(tmp_path, program)
    assert (found.launches, found.graph_launches, found.graph_launch_share) == (3, 1, 0.25)
    assert (found.streams[0].launches, found.streams[0].graph_launches, found.streams[0].depth) == (3, 1, 4)


def test_what_a_graph_captures_does_not_run(tmp_path: Path) -> None:
    """Of two threads; and a capture that began before the window, or ends behind it."""
    program = Program()
    program.call("cudaStreamBeginCapture", 0, 1, A)
    for at in (10, 20, 30):
        program.launch(at, A)
    program.launch(25, B, tid=2)
    program.call("cudaStreamEndCapture", 40, 1, A)
    program.launch(50, A)
    found = host(tmp_path, program)
    assert (found.captured, found.launches) == (3, 2)
    assert {one.stream: (one.launches, one.depth) for one in found.streams} == {A: (1, 1), B: (1, 1)}
    late = Program()
    late.launch(0, A)
    late.call("cudaStreamEndCapture", 40, 1, A)
    late.launch(50, A)
    late.call("cudaStreamBeginCapture", 60, 1, A)
    late.launch(70, A)
    late.launch(80, B, tid=2)
    late.launch(90, B, pid=2)
    found = host(tmp_path, late)
    assert (found.captured, found.launches) == (2, 3)


def replayed() -> Program:
    """A graph of 3 kernels is captured, while another thread launches, and launched 4 times; 4 kernels on their own."""
    program = Program()
    program.call("cudaStreamBeginCapture", 0, 1, A)
    for at in (10, 20, 30):
        program.launch(at, A)
    program.call("cuLaunchKernel", 31, 1, A)  # the runtime's own
    program.launch(25, B, tid=2)
    program.call("cudaStreamEndCapture", 40, 1, A, address=0x1000)
    program.call("cudaGraphInstantiate", 50, 1, None, address=0x2000, graph=0x1000)
    for number in range(4):
        program.call("cudaGraphLaunch", 60 + 10 * number, 1, A, address=0x2000)
    for at in (100, 110, 120):
        program.launch(at, A)
    return program


def test_kernels_that_graphs_launch(tmp_path: Path) -> None:
    found = host(tmp_path, replayed())
    assert (found.graph_launches, found.graph_launches_known, found.launches) == (4, 4, 4)
    assert (found.graph_kernels, found.graph_kernel_share) == (12, 12 / 16)
    with replayed().write(tmp_path / "a.duckdb") as recording:
        gpu = json.loads(json_viewer.render(build_report(recording)))["gpu"]
    assert (gpu["graph_launch_share"], gpu["graph_launch_basis"]) == (0.75, "of kernels, as graphs were captured")


def test_graphs_that_are_not_known(tmp_path: Path) -> None:
    """Made before the recording; made anew of what nobody saw; captured while launches were not all probed."""
    program = replayed()
    program.call("cudaGraphLaunch", 130, 1, A, address=0x3000)
    found = host(tmp_path, program)
    assert (found.graph_launches, found.graph_launches_known, found.graph_kernels) == (5, 4, 12)
    assert found.graph_kernel_share is None and found.graph_launch_share == 5 / 9
    program = replayed()
    program.call("cudaGraphInstantiate", 55, 1, None, address=0x2000, graph=0x7777)
    assert host(tmp_path, program).graph_launches_known == 0
    program = replayed()
    program.windows = [("op", -10, 15), ("token", 15, 22), ("op", 22, 200)]
    found = host(tmp_path, program)
    assert (found.graph_launches, found.graph_launches_known) == (4, 0)
    program = replayed()
    program.windows = [("op", -10, 45), ("token", 45, 58), ("op", 58, 200)]
    assert host(tmp_path, program).graph_launches_known == 4, "what makes graphs is always watched"


def test_one_launch_is_counted_once(tmp_path: Path) -> None:
    """The runtime's call around the driver's, a driver's call on its own, and another thread's at the same time."""
    program = Program()
    program.launch(0, A, dur=10)
    program.call("cuLaunchKernel", 2, 5, A)
    program.call("cuLaunchKernel", 20, 5, A)
    program.call("cuLaunchKernel", 3, 4, A, tid=2)
    program.call("ncclAllReduce", 40, 20, B, bytes=1 << 20, communicator=99)
    program.launch(45, B, name="ncclDevKernel")
    found = host(tmp_path, program)
    assert (found.calls, found.nested, found.launches) == (6, 1, 4)
    by_stream = {one.stream: one for one in found.streams}
    assert (by_stream[A].launches, by_stream[A].depth) == (3, 3)
    assert (by_stream[B].launches, by_stream[B].collectives, by_stream[B].depth) == (1, 1, 1)
    [collective] = found.collectives
    assert (collective.communicator, collective.size_bytes, collective.host_ns) == (99, 1 << 20, 20 * US)


def test_a_call_that_failed_did_nothing(tmp_path: Path) -> None:
    program = Program()
    for number in range(7):
        program.launch(10.0 * number, A, result=35)
    program.sync(70, 10, A)
    found = host(tmp_path, program)
    assert (found.failed, found.failures, found.launches, found.streams) == (7, (("cudaLaunchKernel", 35, 7),), 0, ())
    assert ids(tmp_path, program) == ["cuda_host.failed"]


def test_pageable_copies_and_the_allocator(tmp_path: Path) -> None:
    program = Program()
    for number in range(30):
        at = 100.0 * number
        program.call("cudaMalloc", at, 10, None, bytes=4096, address=0x700)
        program.call("cudaMemcpyAsync", at + 12, 50, A, bytes=1 << 20, direction="HtoD", host_memory="pageable")
        program.call("cudaMemcpyAsync", at + 64, 2, A, bytes=1 << 20, direction="HtoD", host_memory="pinned")
        program.call("cudaFree", at + 70, 20, None, address=0x700)
    found = host(tmp_path, program)
    assert [(one.host_memory, one.calls, one.size_bytes, one.host_ns) for one in found.copies] == [
        ("pageable", 30, 30 << 20, 1500 * US), ("pinned", 30, 30 << 20, 60 * US)]  # fmt: skip
    used = found.allocator
    assert (used.allocations, used.frees, used.size_bytes, used.repeated) == (30, 30, 30 * 4096, 29)
    assert used.host_ns == 900 * US
    assert ids(tmp_path, program) == ["cuda_host.allocator", "cuda_host.pageable"]


def test_sizes_that_are_not_known_are_not_zero(tmp_path: Path) -> None:
    """As of an imported trace, whose calls have none."""
    program = Program()
    for number in range(30):
        program.call("cudaMalloc", 100.0 * number, 10, None)
        program.call("cudaMemcpyAsync", 100.0 * number + 12, 50, A, direction="HtoD", host_memory="pageable")
    found = host(tmp_path, program)
    assert [one.size_bytes for one in found.copies] == [None]
    assert (found.allocator.allocations, found.allocator.size_bytes, found.allocator.repeated) == (30, None, None)
    rows = {sheet.id: sheet.rows[0] for sheet in cuda.sheets(found)}
    assert rows["copies"][3] == rows["allocator"][2] == rows["allocator"][3] == "–"
    with program.write(tmp_path / "b.duckdb") as recording:
        told = {one.id: one.evidence[0] for one in build_report(recording).findings}
    assert told["cuda_host.pageable"] == "30 copies HtoD: size not known, 1.5 ms of host time"
    assert told["cuda_host.allocator"] == "allocated: size not known"


def test_nothing_is_known_across_a_gap(tmp_path: Path) -> None:
    """Probes on from 0 to 100 and from 200 to 300 µs: the wait in the second window is for what was queued in it."""
    program = Program()
    program.launch(0, A)
    program.call("cudaEventRecord", 10, 1, A, address=7)
    program.sync(20, 30, A)
    program.launch(90, A)
    program.call("cudaEventSynchronize", 200, 10, None, address=7)  # recorded again in between, for all we know
    program.launch(230, A)
    program.sync(240, 20, A)
    program.launch(290, A)
    program.sync(120, 10, A)  # while probes are taken away
    program.launch(298, A)  # returns behind the window
    program.windows = [("op", 0, 100), ("token", 100, 200), ("op", 200, 250), ("thread", 250, 300)]
    found = host(tmp_path, program)
    [one] = found.streams
    assert (one.drained, one.drained_ns, one.depth) == (2, (40 + 30) * US, 1)
    assert (one.launches, one.span_ns, found.span_ns) == (4, (95 + 65) * US, (95 + 95) * US)


def test_hostile_numbers(tmp_path: Path) -> None:
    program = Program()
    wild = (1 << 63) - 1
    for number in range(40):
        program.call("cudaMalloc", number, 0, None, bytes=wild, address=-1)
        program.call("cudaMemcpyAsync", number, 0, -1, bytes=wild, direction="HtoD", host_memory="odd")
        program.launch(number, -(1 << 62), name="\x1b[31m<script>\n" + "x" * 9000, grid="[1,", dur=0)
    with program.write(tmp_path / "a.duckdb") as recording:
        report = build_report(recording)
        found = report.get(CudaHost)
        assert found is not None and found.allocator.size_bytes == 40 * wild and found.copies[0].size_bytes == 40 * wild
        out = io.StringIO()
        terminal.show(report, out, 80)
        assert "\x1b" not in out.getvalue()
        assert "<script>\n" not in html.render(report, draw(recording))
        json.loads(json_viewer.render(report))


def test_with_a_lost_event_nothing_is_certain_of_queues(tmp_path: Path) -> None:
    with burst(100).write(tmp_path / "a.duckdb") as recording:
        recording.shadow("loss", {"window_id": [0], "place": ["ring"], "events": [1]})
        report = build_report(recording)
    assert not [one.id for one in report.findings if one.id.startswith("cuda_host.")]
    found = report.get(CudaHost)
    assert found is not None and "1 events were lost" in found.notes[1]


def test_gpu_time_is_never_invented(tmp_path: Path) -> None:
    with serial().write(tmp_path / "a.duckdb") as recording:
        report = build_report(recording)
        out = io.StringIO()
        terminal.show(report, out, 100)
        document = json.loads(json_viewer.render(report))
        page = html.render(report, draw(recording))
    times = dict.fromkeys(("busy_ns", "idle_ns", "exposed_copy_ns", "exposed_comm_ns"))
    assert document["gpu"] == {**times, "graph_launch_share": 0.0, "graph_launch_basis": "of launching calls"}
    assert report.section("gpu").status == "skipped" and "not observed" in report.section("gpu").reason
    assert "GPU execution not observed" in out.getvalue() and "GPU execution not observed" in page
    assert document["cuda_host"]["gpu_observed"] is False
    assert document["cuda_host"]["launches"] == 20


def test_an_import_shows_its_calls_and_leaves_the_gpu_to_its_timeline(tmp_path: Path) -> None:
    waits = [slice_("cuda_runtime", "cudaDeviceSynchronize", 1056, 3000),
             slice_("cuda_runtime", "cudaMalloc", 900, 3), slice_("cuda_runtime", "cudaFree", 4100, 3),
             slice_("cuda_driver", "cuLaunchKernel", 4110, 4, correlation=300),
             work("kernel", "triton", 4120, 5, 300, stream=2)]  # fmt: skip
    with imported(kineto(tmp_path / "a.json", step() + waits)) as recording:
        report = build_report(recording)
        found = report.get(CudaHost)
    assert found is not None and found.gpu_observed and found.notes == ()
    assert {one.stream: (one.launches, one.copies, one.copied_bytes) for one in found.streams} == {
        7: (2, 1, 4096), 2: (1, 0, 0)}  # fmt: skip
    numbers = {row[0] for sheet in cuda.sheets(found) if sheet.id == "streams" for row in sheet.rows}
    assert numbers == {"7", "2"}, "of a profiler's numbers 2 is no thread's default stream, as of CUDA's handles"
    assert [(one.function, one.total_ns) for one in found.waits] == [("cudaDeviceSynchronize", 3_000_000)]
    assert {one.name: one.launches for one in found.kernels} == {"sgemm<float>": 2, "triton": 1}
    assert (found.allocator.allocations, found.allocator.frees) == (1, 1)
    assert not [one.id for one in report.findings if one.id.startswith("cuda_host.")]


@pytest.mark.parametrize("make", [Program, lambda: serial(1)], ids=["no call", "one round"])
def test_little_or_nothing(tmp_path: Path, make: Callable[[], Program]) -> None:
    with make().write(tmp_path / "a.duckdb") as recording:
        report = build_report(recording)
    assert report.section("cuda_host").status == ("ok" if make().rows else "skipped")
    assert not [one for one in report.sections if one.status == "failed"]
