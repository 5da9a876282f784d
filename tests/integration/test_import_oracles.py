"""Imports of traces that other groups recorded, against what their own tools say of them.

They lie in `shared/traces` beside the checkout; where that is absent these tests skip. Tolerances: 0.5 % of the total
for times by TraceLens (its timestamps are doubles with 0.25 µs), FLOPs and bytes exactly (its "MB" are MiB).
"""

from __future__ import annotations

import ast
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler.analyzers import overlap
from flowprof.profiler.analyzers.gpu import table
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.gpu import GpuTable
from flowprof.profiler.store import Recording
from flowprof.profiler.torch import costs as torch_costs
from traces import SHARED, imported

pytestmark = [pytest.mark.skipif(not SHARED.is_dir(), reason=f"the traces are not at {SHARED}"), pytest.mark.parallel]
WITH_TABLES = ("h100_qwen05b", "sglang_decode_qwen3_8b", "vllm_decode_graph")
csv.field_size_limit(1 << 30)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every trace, imported once."""
    folder = tmp_path_factory.mktemp("oracles")
    sources = {path.parent.name: path for path in SHARED.glob("kineto/*/trace.json.gz")}
    sources |= {path.stem: path for path in SHARED.glob("nsys/*.sqlite")}
    found = {}
    for name, source in sources.items():
        found[name] = folder / f"{name}.duckdb"
        imported(source, found[name]).close()
    return found


def rows(trace: str, name: str) -> list[dict[str, str]]:
    with (SHARED / "kineto" / trace / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def gpu(path: Path) -> GpuTable:
    with Recording.open(str(path)) as recording:
        return table(recording)


@pytest.mark.parametrize("trace", WITH_TABLES)
def test_timeline(recordings: dict[str, Path], trace: str) -> None:
    said = {row["type"]: float(row["time ms"]) * 1e6 for row in rows(trace, "gpu_timeline")}
    found = gpu(recordings[trace])
    [one] = found.devices
    near = {"abs": 0.005 * said["total_time"]}
    assert found.busy_ns == pytest.approx(said["busy_time"], **near)
    assert found.idle_ns == pytest.approx(said["idle_time"], **near)
    assert found.exposed_copy_ns == pytest.approx(said["exposed_memcpy_time"], **near)
    assert found.exposed_comm_ns == pytest.approx(said["exposed_comm_time"], **near)
    # Closer than that where a figure is small beside the total: 1 % of itself and the doubles' grain
    assert found.exposed_copy_ns == pytest.approx(said["exposed_memcpy_time"], rel=0.01, abs=300)
    assert found.idle_ns == pytest.approx(said["idle_time"], rel=0.005, abs=300)
    assert one.compute_ns == pytest.approx(said["computation_time"], rel=0.005)
    assert one.span_ns == pytest.approx(said["total_time"], rel=0.005)


def test_products_and_attention(recordings: dict[str, Path]) -> None:
    """Every group of TraceLens' table: calls, FLOPs and bytes exactly, kernel time to the grain of its clock."""
    groups = {(group.operator, group.shape): group for group in gpu(recordings["h100_qwen05b"]).groups}
    for row in rows("h100_qwen05b", "GEMM"):
        args = arguments(row)
        group = groups[row["name"], torch_costs.shown(row["name"], args)]
        assert group.calls == int(row["name_count"])
        assert group.flops == round(float(row["GFLOPS_first"]) * 1e9) * group.calls
        assert group.size_bytes == round(float(row["Data Moved (MB)_first"]) * 2**20) * group.calls
        assert group.total_ns == pytest.approx(float(row["Kernel Time (µs)_sum"]) * 1e3, rel=0.001)
    [attention] = [group for (name, _), group in groups.items() if "flash" in name]
    [row] = rows("h100_qwen05b", "SDPA_fwd")
    assert attention.flops == round(float(row["GFLOPS_first"]) * 1e9) * attention.calls
    assert attention.size_bytes == round(float(row["Data Moved (MB)_first"]) * 2**20) * attention.calls
    assert attention.total_ns == pytest.approx(float(row["Kernel Time (µs)_sum"]) * 1e3, rel=0.001)


def arguments(row: dict[str, str]) -> tuple[torch_costs.Arg, ...]:
    texts = (row["Input Dims_first"], row["Input type_first"], row["Concrete Inputs_first"])
    return torch_costs.arguments(*(json.dumps(ast.literal_eval(text)) for text in texts))


TABLES = [("h100_qwen05b", name) for name in ("GEMM", "SDPA_fwd", "BinaryElementwise", "UnaryElementwise")]


@pytest.mark.parametrize(
    ("trace", "name"), [*TABLES, ("sglang_decode_qwen3_8b", "GEMM"), ("vllm_decode_graph", "GEMM")]
)
def test_formulas(trace: str, name: str) -> None:
    """Also of operators that ran inside graphs, whose shapes only TraceLens knows."""
    for row in rows(trace, name):
        found = torch_costs.cost(row["name"], arguments(row))
        assert found is not None, row["name"]
        assert found.size_bytes == round(float(row["Data Moved (MB)_first"]) * 2**20)
        if found.kind != "copy":  # TraceLens counts a FLOP per element copied
            assert found.flops == round(float(row["GFLOPS_first"]) * 1e9)


def test_kernels_one_by_one(recordings: dict[str, Path]) -> None:
    sql = """
    SELECT coalesce(o.name, ''), w.name, count(*), sum(w.dur_ns)
    FROM gpu_work w LEFT JOIN api_call o ON o.call_id = w.operator_id GROUP BY 1, 2
    """
    with Recording.open(str(recordings["h100_qwen05b"])) as recording:
        found = {(operator, name): (count, int(ns)) for operator, name, count, ns in recording.rows(sql)}
    said: dict[tuple[str, str], list[float]] = {}
    for row in rows("h100_qwen05b", "kernel_summary"):
        one = said.setdefault((row["Parent cpu_op"], row["Kernel name"]), [0, 0.0])
        one[0] += int(float(row["Kernel duration (µs)_count"]))
        one[1] += float(row["Kernel duration (µs)_sum"]) * 1e3
    attributed = {key: value for key, value in said.items() if key[0]}
    assert len(attributed) > 20
    for key, (count, ns) in attributed.items():
        assert found[key][0] == count
        assert found[key][1] == pytest.approx(ns, rel=0.001)


@pytest.mark.parametrize(
    ("trace", "inside", "kernels"), [("vllm_decode_graph", 421, 425), ("sglang_decode_qwen3_8b", 544, 555)]
)
def test_one_launch_runs_a_whole_step(recordings: dict[str, Path], trace: str, inside: int, kernels: int) -> None:
    """The vLLM step has 425 kernels; the one graph launch carries 421 of them, four were launched one by one."""
    found = gpu(recordings[trace])
    assert (found.graph_launches, found.graph_kernels, found.kernels) == (1, inside, kernels)
    assert found.graph_launch_share == pytest.approx(inside / kernels)
    assert found.unattributed_share > 0.95
    with Recording.open(str(recordings[trace])) as recording:
        findings = {finding.id: finding for finding in build_report(recording).findings}
    assert f"{inside} of {kernels} kernels" in findings["gpu.unattributed"].claim


def test_a_healthy_trace_has_no_findings(recordings: dict[str, Path]) -> None:
    with Recording.open(str(recordings["healthy_1pct"])) as recording:
        report = build_report(recording)
    assert report.findings == ()
    found = report.get(GpuTable)
    assert found is not None
    assert found.idle_ns / (found.busy_ns + found.idle_ns) == pytest.approx(0.01, abs=0.0005)


def test_two_gpus_that_wait_for_copies(recordings: dict[str, Path]) -> None:
    """Against SQLite itself: everything ran in one stream per device, so sums are unions."""
    import sqlite3

    said: dict[tuple[int, str], Any] = {}
    with sqlite3.connect(f"file:{SHARED}/nsys/h100_2gpu_1s.sqlite?mode=ro&immutable=1", uri=True) as db:
        for kind in ("KERNEL", "MEMCPY"):
            for device, ns in db.execute(
                f'SELECT deviceId, sum("end" - start) FROM CUPTI_ACTIVITY_KIND_{kind} GROUP BY 1'
            ):
                said[device, kind] = ns
    for one in gpu(recordings["h100_2gpu_1s"]).devices:
        assert one.copy_ns == said[one.device, "MEMCPY"]
        assert one.compute_ns == pytest.approx(said[one.device, "KERNEL"], rel=0.005)
    with Recording.open(str(recordings["h100_2gpu_1s"])) as recording:
        assert "gpu.exposed_copy" in [finding.id for finding in build_report(recording).findings]
        assert recording.rows("SELECT count(operator_id) > 2000 FROM gpu_work") == [(True,)]


def test_no_gpu_at_all(recordings: dict[str, Path]) -> None:
    with Recording.open(str(recordings["cpu_only"])) as recording:
        outcome = build_report(recording).section("gpu")
        assert (outcome.status, outcome.reason) == ("skipped", "GPU execution not observed: imported from Kineto JSON")
        assert recording.rows("SELECT count(*) FROM api_call") == [(15,)]


def test_streams_joined_by_events(recordings: dict[str, Path]) -> None:
    found = gpu(recordings["event_sync_multi_stream"])
    [one] = found.devices
    assert (one.streams, one.busy_ns, found.unattributed_ns) == (3, 372_000, 0)
    with Recording.open(str(recordings["event_sync_multi_stream"])) as recording:
        edges = "SELECT waiting_stream, awaited_stream, awaited_record FROM gpu_sync ORDER BY correlation"
        assert recording.rows(edges) == [(None, 20, 32), (24, 20, 1385), (None, 28, 62)]
        assert recording.rows("SELECT name FROM api_call WHERE correlation = 1385") == [("cudaEventRecord",)]


def test_streams_that_wait_for_events(recordings: dict[str, Path]) -> None:
    """Nsight Systems was not told to trace events: which stream waits is known, and not for which one."""
    with Recording.open(str(recordings["h100_2gpu_1s"])) as recording:
        rows = recording.rows(
            "SELECT pid, waiting_stream, awaited_stream, count(*) FROM gpu_sync GROUP BY ALL ORDER BY ALL"
        )
        assert rows[-1] == (112, None, 15, 4)
        assert {(pid, stream) for pid, stream, _, _ in rows} == {
            (111, None), (111, 22), (111, 26), (112, None), (112, 30), (112, 34)}  # fmt: skip
        assert ("Stream Wait Event", 236) in recording.rows(
            "SELECT name, count(*) FROM gpu_slice WHERE kind = 'sync' GROUP BY 1")  # fmt: skip


@pytest.mark.parametrize(
    ("trace", "culprits"),
    [*((name, []) for name in (*WITH_TABLES, "healthy_1pct", "event_sync_multi_stream")),
     ("h100_2gpu_1s", ["same stream"])],
)  # fmt: skip
def test_overlap_is_advised_where_the_trace_carries_it(
    recordings: dict[str, Path], trace: str, culprits: list[str]
) -> None:
    """Small prefill is bound by memory, decode in graphs is of an unknown resource; two GPUs wait for their copies."""
    with Recording.open(str(recordings[trace])) as recording:
        found = overlap.table(recording)
    assert [one.culprit for one in found.overlaps] == culprits
    assert found.overlaps or found.refused
