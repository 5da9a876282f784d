"""The GPU's timeline and verdicts, on traces whose truth is known by construction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flowprof.profiler import intervals
from flowprof.profiler.analyzers.gpu import table
from flowprof.profiler.machine.ceilings import Ceiling, Ceilings
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.gpu import GpuTable
from flowprof.viewers import html, terminal
from flowprof.viewers import json as json_viewer
from synthetic import Synthetic
from synthetic import write as write_recording
from traces import Event, imported, kineto, nsys, nsys_tables, slice_, step, work

GPU_KEYS = ("busy_ns", "idle_ns", "exposed_copy_ns", "exposed_comm_ns", "graph_launch_share", "graph_launch_basis")


def test_union_and_length() -> None:
    random = np.random.default_rng(3)
    for _ in range(200):
        rows = int(random.integers(0, 12))
        start = random.integers(0, 40, rows)
        end = start + random.integers(0, 9, rows)
        covered = {at for a, b in zip(start, end, strict=True) for at in range(a, b)}
        assert intervals.length(start, end) == len(covered)
        begins, ends = intervals.union(start, end)
        assert np.all(begins[1:] > ends[:-1])


def timeline(tmp_path: Path, events: list[Event], **facts: Any) -> GpuTable:
    with imported(kineto(tmp_path / "a.json", events, **facts)) as recording:
        return table(recording)


def test_exposed_time_by_hand(tmp_path: Path) -> None:
    """Kernel 0–100, collective 50–150 on another stream, copy 120–200, idle to 250, memset 250–260 (µs)."""
    found = timeline(tmp_path, [
        work("kernel", "gemm", 0, 100, 1), work("kernel", "ncclDevKernel_AllReduce", 50, 100, 2, stream=8),
        work("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 120, 80, 3, stream=9),
        work("gpu_memset", "Memset (Device)", 250, 10, 4),
        work("gpu_user_annotation", "step", 0, 9000, 5), slice_("cuda_sync", "Event Sync", 0, 9000, 0, 7, device=0),
    ])  # fmt: skip
    [one] = found.devices
    assert (one.span_ns, one.busy_ns, one.idle_ns) == (260_000, 210_000, 50_000)
    assert (one.compute_ns, one.comm_ns, one.copy_ns) == (110_000, 100_000, 80_000)
    assert (one.exposed_comm_ns, one.exposed_copy_ns) == (50_000, 50_000)
    assert one.compute_ns + one.exposed_comm_ns + one.exposed_copy_ns == one.busy_ns
    assert (one.streams, one.longest_gap_ns, one.longest_gap_at_ns) == (3, 50_000, 200_000)
    assert (found.busy_ns, found.idle_ns, found.work_ns) == (210_000, 50_000, 290_000)


def test_devices_share_one_span(tmp_path: Path) -> None:
    events = [work("kernel", "k", 0, 100, 1), work("kernel", "k", 50, 10, 2, device=1)]
    found = timeline(tmp_path, events)
    assert [(one.busy_ns, one.idle_ns) for one in found.devices] == [(100_000, 0), (10_000, 90_000)]
    assert (found.busy_ns, found.idle_ns) == (110_000, 90_000)


def test_gaps_of_the_host_and_of_the_queue(tmp_path: Path) -> None:
    """A gap whose work was launched after the device had drained, one launched in time, one not known."""
    launches = [
        slice_("cuda_runtime", "cudaLaunchKernel", at, 1, correlation=n) for n, at in ((1, 0), (2, 150), (3, 160))
    ]
    kernels = [work("kernel", "k", at, 100, n) for n, at in ((1, 10), (2, 200), (3, 320), (9, 500))]
    [one] = timeline(tmp_path, launches + kernels).devices
    assert (one.idle_ns, one.host_bound_ns, one.unknown_gap_ns) == (90_000 + 20_000 + 80_000, 90_000, 80_000)


def test_work_of_the_step_before_is_left_out(tmp_path: Path) -> None:
    found = timeline(tmp_path, [*step(), work("kernel", "warm-up", 10, 500, 1)])
    assert (found.lead_in_slices, found.lead_in_ns) == (1, 500_000)
    assert found.busy_ns == 45_000
    alone = timeline(tmp_path, [work("kernel", "no launch at all", 10, 500, 1)])
    assert (alone.lead_in_slices, alone.busy_ns) == (0, 500_000)


def test_graphs(tmp_path: Path) -> None:
    graph = [slice_("cuda_runtime", "cudaGraphLaunch", 2000, 5, correlation=9),
             *(work("kernel", "fused", 2010 + 10 * n, 10, 9) for n in range(18))]  # fmt: skip
    found = timeline(tmp_path, step() + graph)
    assert (found.graph_launches, found.graph_kernels, found.kernels) == (1, 18, 20)
    assert found.graph_launch_share == pytest.approx(0.9)
    assert found.unattributed_ns == 180_000 + 5_000, "the graph's kernels, and a copy outside of operators"


def product(path: Path, us: float, calls: int = 10, dims: int = 4096) -> Path:
    """Products of dims² matrices in bf16 that take `us` each."""
    args = {"Input Dims": [[dims, dims], [dims, dims]], "Input type": ["c10::BFloat16", "c10::BFloat16"]}
    events = []
    for n in range(calls):
        at = 10 * us * n
        events += [slice_("cpu_op", "aten::mm", at, 5, **{"External id": n + 1}, **args),
                   slice_("cuda_runtime", "cudaLaunchKernel", at + 1, 2, correlation=n + 1, **{"External id": n + 1}),
                   work("kernel", "gemm", at + 4, us, n + 1)]  # fmt: skip
    return kineto(path, events)


@pytest.mark.parametrize(
    ("us", "calls", "dims", "bound"),
    [
        (200, 10, 4096, "compute"),  # 687 of 989 TFLOP/s
        (2000, 10, 4096, "inefficient"),
        (2000, 3, 4096, "unknown"),  # too few calls
        (50, 10, 4096, "unknown"),  # above what the data sheet promises
        (3, 10, 16, "overhead"),
        (0.2, 10, 256, "memory"),  # 393 kB at 1.97 TB/s of 3.35
    ],
)
def test_verdicts(tmp_path: Path, us: float, calls: int, dims: int, bound: str) -> None:
    with imported(product(tmp_path / "a.json", us, calls, dims)) as recording:
        [group] = table(recording).groups
    assert (group.operator, group.calls, group.bound) == ("aten::mm", calls, bound)
    assert group.flops == calls * 2 * dims**3
    assert group.size_bytes == calls * 3 * dims * dims * 2
    assert group.flops_per_s == pytest.approx(2 * dims**3 / (us * 1e-6))
    assert group.ceiling_share is not None


def test_own_ceilings_replace_the_data_sheet(tmp_path: Path) -> None:
    own = Ceilings("mine", (Ceiling("dram_read", "", 0, 1e12, 1e12, 1e12, "measured by me"),
                            Ceiling("gemm", "bf16", 0, 7e14, 7e14, 7e14, "measured by me")))  # fmt: skip
    with imported(product(tmp_path / "a.json", 200)) as recording:
        found = build_report(recording, own).get(GpuTable)
    assert found is not None
    assert found.groups[0].ceiling_share == pytest.approx(2 * 4096**3 / 200e-6 / 700e12)
    assert {one.source for one in found.ceilings} == {"measured by me"}


def test_an_unknown_gpu_has_no_verdicts(tmp_path: Path) -> None:
    events = json.loads(product(tmp_path / "a.json", 200).read_text())["traceEvents"]
    found = timeline(tmp_path, events, deviceProperties=[{"id": 0, "name": "Vortex 9000"}])
    assert [group.bound for group in found.groups] == ["unknown"]
    assert found.groups[0].flops
    assert "Vortex 9000" in found.notes[0]


def ids(path: Path) -> list[str]:
    with imported(path) as recording:
        return [finding.id for finding in build_report(recording).findings]


def test_findings_fire_where_they_should(tmp_path: Path) -> None:
    assert "gpu.idle" in ids(product(tmp_path / "idle.json", 200))
    comm = [work("kernel", "gemm", 0, 100, 1), work("kernel", "ncclDevKernel_X", 100, 20, 2)]
    assert ids(kineto(tmp_path / "comm.json", comm)) == ["gpu.exposed_comm"]
    copy = [work("kernel", "gemm", 0, 100, 1), work("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 100, 20, 2)]
    assert ids(kineto(tmp_path / "copy.json", copy)) == ["gpu.exposed_copy"]
    hidden = [work("kernel", "gemm", 0, 130, 1), work("kernel", "ncclDevKernel_X", 90, 20, 2, stream=8)]
    assert ids(kineto(tmp_path / "hidden.json", hidden)) == []


def test_every_viewer_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import io

    from flowprof.profiler.report import timeline as draw

    for name, path in (("kineto", kineto(tmp_path / "a.json")), ("nsys", nsys(tmp_path / "a.sqlite", nsys_tables())),
                       ("cpu", kineto(tmp_path / "c.json", [slice_("cpu_op", "a", 0, 1)]))):  # fmt: skip
        with imported(path, tmp_path / f"{name}.duckdb") as recording:
            report = build_report(recording)
            assert not [one for one in report.sections if one.status == "failed"]
            out = io.StringIO()
            for width in (60, 80, 200):
                terminal.show(report, out, width)
            page = html.render(report, draw(recording))
            document = json.loads(json_viewer.render(report))
        assert "imported" in out.getvalue()
        if name == "cpu":
            assert document["gpu"] == dict.fromkeys(GPU_KEYS)
            assert "GPU execution not observed" in out.getvalue()
        else:
            assert set(GPU_KEYS) <= set(document["gpu"]) and document["gpu"]["graph_launch_basis"] == "of kernels"
            assert 'id="gpu"' in page and "GPU work" in out.getvalue()
        operators = next(one for one in document["sections"] if one["name"] == "operators")
        assert operators["status"] == "skipped" and "imported from" in operators["reason"]


def test_a_recording_without_a_gpu_says_so(tmp_path: Path) -> None:
    from flowprof.profiler.store import Recording

    path = str(tmp_path / "a.duckdb")
    write_recording(path, Synthetic())
    with Recording.open(path) as recording:
        outcome = build_report(recording).section("gpu")
    assert (outcome.status, outcome.reason.split(";")[0]) == ("skipped", "GPU execution not observed")
