"""CUDA's and NCCL's calls of a running program: exact counts, names, sizes; planted causes are found, GPU time is not.

The program (examples/cuda/program.c) says exactly what it calls. It runs on a stub whose streams are queues in time,
linked in every way, and on the real runtime from NVIDIA's wheel, where every call fails for want of a GPU and is seen
all the same.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from cuda_programs import Built, Program, build, real_kernels, real_runtime
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.cuda.registered_kernels import registered_kernels
from flowprof.profiler.report import Report, build_report
from flowprof.profiler.sections.cuda_host import CudaHost
from flowprof.profiler.sections.overlap import OverlapTable
from flowprof.profiler.store import Recording
from flowprof.viewers import json as json_viewer
from flowprof.viewers import terminal
from recorded import recording_of
from undisturbed import DISTURBED

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

LEVELS = ("token", "graph", "op")
ROWS = """
SELECT c.name AS api, c.kind, d.what, d.stream, d.name, d.grid, d.block, d.shared_bytes, d.bytes, d.direction,
       d.host_memory, d.address, d.communicator, d.result, c.depth, c.parent_id IS NOT NULL AS inner
FROM api_call c JOIN device_call d USING (call_id) ORDER BY c.start_ns
"""
# What `everything` calls, in order, with what each is about: bytes, direction, host memory.
COPIES = [
    ("cudaMemcpyAsync", 1001, "HtoD", "pageable"), ("cudaMemcpyAsync", 1002, "DtoH", "pageable"),
    ("cudaMemcpyAsync", 1003, "DtoD", None), ("cudaMemcpyAsync", 1004, "HtoD", "pinned"),
    ("cudaMemcpy", 1005, "DtoH", "pageable"), ("cudaMemcpyAsync", 1008, "HtoD", "pinned"),
]  # fmt: skip
COUNTS = {
    "cudaLaunchKernel": 1, "cudaLaunchCooperativeKernel": 1, "cudaLaunchKernelExC": 1, "cudaMalloc": 1,
    "cudaMallocAsync": 1, "cudaHostAlloc": 1, "cudaMemcpyAsync": 5, "cudaMemcpy": 1, "cudaMemset": 1,
    "cudaMemsetAsync": 1, "cudaEventRecord": 1, "cudaEventQuery": 1, "cudaEventSynchronize": 1,
    "cudaStreamWaitEvent": 1, "cudaGraphLaunch": 1, "cudaStreamSynchronize": 1, "cudaDeviceSynchronize": 1,
    "cudaFreeAsync": 1, "cudaFree": 1, "cudaFreeHost": 1, "cudaHostRegister": 1, "cudaHostUnregister": 1,
}  # fmt: skip
RMS_NORM = "rms_norm(float const*, float*, int)"
GEMM = "void gemm::kernel<float, 128>(float const*, float const*, float*)"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("cuda"))


def record(program: Program, path: Path, *orders: tuple[str, int], **options: object) -> Recording:
    """Record while the program does as it is told. The recording is open for reading."""
    with recording_of([program.pid], path, **{"levels": LEVELS, "budget": None, **options}) as run:
        deadline = time.monotonic() + 30
        while run.recorder.progress.level != "op":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for what, times in orders:
            program.tell(what, times)
    return Recording.open(str(path))


def table(report: Report) -> CudaHost:
    found = report.get(CudaHost)
    assert found is not None, report.section("cuda_host").reason
    return found


def frames(recording: Recording) -> list[dict[str, object]]:
    names, rows = recording.table(ROWS)
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize("linked", ["shared", "static"])
@pytest.mark.parametrize("multi", [True, False], ids=["uprobe_multi", "perf_event"])
def test_every_call_with_what_it_is_about(built: Built, tmp_path: Path, linked: str, multi: bool) -> None:
    with built.run(linked) as program:
        a = program.streams[0]
        with record(program, tmp_path / "a.duckdb", ("everything", 3), multi=multi) as recording:
            rows = frames(recording)
            losses = recording.rows("SELECT coalesce(sum(events), 0) FROM loss WHERE place = 'ring'")
    outer = [row for row in rows if not row["inner"]]
    assert losses == [(0,)]
    assert Counter(row["api"] for row in outer) == {name: 3 * number for name, number in COUNTS.items()}
    inner = Counter(row["api"] for row in rows if row["inner"])
    assert inner == {"cudaHostRegister": 3, "cudaHostUnregister": 3}, "the stub's cudaHostAlloc calls it"
    assert {row["kind"] for row in rows} == {"runtime"} and {row["result"] for row in rows} <= {0, 600}
    first = outer[: len(outer) // 3]
    launches = [(row["name"], row["grid"], row["block"], row["shared_bytes"], row["stream"]) for row in first
                if row["what"] == "launch"]  # fmt: skip
    assert launches == [(RMS_NORM, "[7, 5, 3]", "[256, 2, 1]", 4096, a), (GEMM, "[7, 5, 3]", "[256, 2, 1]", 0, a),
                        (GEMM, "[7, 5, 3]", "[256, 2, 1]", 1024, a)]  # fmt: skip
    copies = [
        (row["api"], row["bytes"], row["direction"], row["host_memory"]) for row in first if row["what"] == "copy"
    ]
    assert copies == COPIES
    assert [row["stream"] for row in first if row["what"] == "copy"] == [a, a, a, a, 0, a]
    about = {row["api"]: row for row in first}
    assert [about[name]["bytes"] for name in ("cudaMalloc", "cudaMallocAsync", "cudaHostAlloc", "cudaMemset",
                                              "cudaMemsetAsync")] == [12345, 23456, 65536, 1006, 1007]  # fmt: skip
    assert about["cudaFree"]["address"] == about["cudaMallocAsync"]["address"] == 0x7E0000000000 + 23456
    assert about["cudaHostAlloc"]["address"] == about["cudaFreeHost"]["address"]
    assert about["cudaEventRecord"]["address"] == about["cudaEventSynchronize"]["address"]
    assert about["cudaDeviceSynchronize"]["stream"] is None and about["cudaStreamSynchronize"]["stream"] == a
    assert (about["cudaGraphLaunch"]["address"], about["cudaGraphLaunch"]["stream"]) == (0x1234, a)


LARGE_COPIES = [  # what the orders `copies` and `driver_copies` call: bytes, direction, host memory
    ("cudaMemcpy2D", 1400, "DtoH", "pageable"), ("cudaMemcpy2DAsync", 1600, "HtoD", "pageable"),
    ("cudaMemcpy2DAsync", None, None, None), ("cudaMemcpy3D", 1500, "HtoD", "pageable"),
    ("cudaMemcpy3DAsync", 1000, "HtoD", "pageable"), ("cudaMemcpy3DAsync", None, "HtoD", "pageable"),
    ("cudaMemcpyPeer", 3001, "PtoP", None), ("cudaMemcpyPeerAsync", 3002, "PtoP", None),
    ("cudaMemcpy3DPeer", 2000, "PtoP", None), ("cudaMemcpy3DPeerAsync", 2000, "PtoP", None),
]  # fmt: skip
DRIVER_COPIES = [
    ("cuMemcpy2D_v2", 1400, "HtoD", "pageable"), ("cuMemcpy2DUnaligned_v2", 1400, "HtoD", "pageable"),
    ("cuMemcpy2DAsync_v2", 1400, "HtoD", "pageable"), ("cuMemcpy2DAsync_v2", 1400, None, None),
    ("cuMemcpy3D_v2", 1500, "DtoH", "pageable"), ("cuMemcpy3DAsync_v2", 1500, "DtoH", "pageable"),
    ("cuMemcpy3DAsync_v2", 1500, "DtoD", None), ("cuMemcpyPeer", 4001, "PtoP", None),
    ("cuMemcpyPeerAsync", 4002, "PtoP", None), ("cuMemcpy3DPeer", 1500, "PtoP", None),
    ("cuMemcpy3DPeerAsync", 1500, "PtoP", None),
]  # fmt: skip


@pytest.mark.parametrize("linked", ["shared", "embedded"])
def test_copies_of_more_dimensions_and_between_devices(built: Built, tmp_path: Path, linked: str) -> None:
    """Through the runtime, and through the driver where the runtime has no symbols."""
    orders, expected = {"shared": ("copies", LARGE_COPIES), "embedded": ("driver_copies", DRIVER_COPIES)}[linked]
    with built.run(linked) as program, record(program, tmp_path / "a.duckdb", (orders, 2)) as recording:
        rows = [row for row in frames(recording) if not row["inner"]]
        streams = {True: program.streams[linked == "embedded"], False: 0}
    assert [(row["api"], row["bytes"], row["direction"], row["host_memory"]) for row in rows] == 2 * expected
    assert [row["stream"] for row in rows] == 2 * [streams["Async" in api] for api, *_ in expected]


def test_kernels_of_a_stripped_program(built: Built, tmp_path: Path) -> None:
    """By the names that it registers; one that it does not is told by its place."""
    with (
        built.run("stripped") as program,
        record(program, tmp_path / "a.duckdb", ("everything", 1), ("wild", 1)) as recording,
    ):
        names = [row["name"] for row in frames(recording) if row["what"] == "launch"]
    assert names[:3] == [RMS_NORM, GEMM, GEMM]
    assert str(names[3]).startswith("program+0x") and names[4:] == [None, None]


def test_the_runtime_calls_the_driver_and_a_launch_counts_once(built: Built, tmp_path: Path) -> None:
    with built.run("driver") as program:
        path = tmp_path / "a.duckdb"
        with record(program, path, ("launch", 10), ("driver", 4), ("pageable", 2)) as recording:
            rows, found = frames(recording), table(build_report(recording))
    launches = Counter((row["api"], row["inner"]) for row in rows if row["what"] == "launch")
    assert launches == {("cudaLaunchKernel", False): 10, ("cuLaunchKernel", True): 10, ("cuLaunchKernel", False): 4,
                        ("cuLaunchKernelEx", False): 4}  # fmt: skip
    assert (found.launches, found.nested) == (10 + 8, 10)
    own = [row for row in rows if row["kind"] == "driver" and not row["inner"]]
    assert {(row["grid"], row["block"]) for row in own} == {("[7, 5, 3]", "[256, 2, 1]")}
    assert {row["shared_bytes"] for row in own} == {2048, 512} and {row["name"] for row in own} == {"function 0x5000"}
    assert {row["stream"] for row in own} == {program.streams[1]}


def test_a_runtime_without_symbols_is_seen_through_the_driver(built: Built, tmp_path: Path) -> None:
    """The stub's runtime calls the driver for launches, and for copies to the device."""
    with built.run("embedded") as program:
        path = tmp_path / "a.duckdb"
        with record(program, path, ("launch", 10), ("driver", 4), ("pageable", 3)) as recording:
            rows, found = frames(recording), table(build_report(recording))
            rungs = recording.rows("SELECT DISTINCT symbol[:4] = 'cuda' FROM probe_site")
    assert rungs == [(False,)]
    counts = Counter(row["api"] for row in rows)
    assert counts == {"cuLaunchKernel": 14, "cuLaunchKernelEx": 4, "cuMemcpyHtoDAsync_v2": 7, "cuStreamSynchronize": 4}
    assert found.launches == 18 and found.nested == 0
    copies = {(row["bytes"], row["direction"], row["host_memory"]) for row in rows if row["what"] == "copy"}
    assert copies == {(2001, "HtoD", "pageable"), (1 << 20, "HtoD", "pageable")}
    [name] = {row["name"] for row in rows if row["what"] == "launch"} - {"function 0x5000"}
    assert str(name).startswith("program+0x"), "the stub's symbol is gone"


def test_collectives(built: Built, tmp_path: Path) -> None:
    with built.run("nccl") as program, record(program, tmp_path / "a.duckdb", ("collectives", 2)) as recording:
        rows, found = frames(recording), table(build_report(recording))
    sizes = {"ncclAllReduce": 4000, "ncclAllGather": 2000, "ncclReduceScatter": 2000, "ncclSend": 4000, "ncclRecv": 500}
    collectives = [row for row in rows if row["what"] == "collective"]
    assert Counter(row["api"] for row in collectives) == dict.fromkeys(sizes, 2)
    assert {row["api"]: row["bytes"] for row in collectives} == sizes
    assert {(row["communicator"], row["stream"]) for row in collectives} == {(0xC0117, program.streams[0])}
    assert Counter(row["api"] for row in rows if row["what"] == "group") == {"ncclGroupStart": 2, "ncclGroupEnd": 2}
    assert {one.function: one.size_bytes for one in found.collectives} == {k: 2 * v for k, v in sizes.items()}
    assert found.launches == 8, "three collectives, and one kernel for the group, twice"
    assert [one.depth for one in found.streams] == [4], "a collective stands for its kernel, which was seen"


def test_a_library_that_comes_late(built: Built, tmp_path: Path) -> None:
    """What is in place already keeps its numbers, and the new library's entries and returns find each other."""
    with built.run("later") as program:
        with recording_of([program.pid], tmp_path / "a.duckdb", levels=LEVELS, budget=None) as run:
            program.tell("load")
            deadline = time.monotonic() + 30
            while not any(site.engine == "nccl" for site in run.recorder.session.sites):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            windows = len(run.recorder.session.windows)
            while len(run.recorder.session.windows) < windows + 2:  # its probes come with the next window
                assert time.monotonic() < deadline
                time.sleep(0.05)
            program.tell("late", 7)
        with Recording.open(str(tmp_path / "a.duckdb")) as recording:
            calls = Counter((row["api"], row["inner"], row["bytes"]) for row in frames(recording))
    assert calls == {("ncclAllReduce", False, 4000): 7, ("cudaLaunchKernel", True, None): 7}


def test_planted_causes_are_found(built: Built, tmp_path: Path) -> None:
    """Each on a recording of its own; what was not planted is not claimed."""
    claims: dict[str, set[str]] = {}
    tables: dict[str, CudaHost] = {}
    for what, times in (("serialised", 200), ("ordered", 200), ("tiny", 20), ("drained", 50), ("pageable", 100),
                        ("allocate", 100), ("graph", 20)):  # fmt: skip
        with (
            built.run("shared") as program,
            record(program, tmp_path / f"{what}.duckdb", (what, times)) as recording,
        ):
            report = build_report(recording)
            claims[what] = {one.id for one in report.findings if one.id.startswith("cuda_host.")}
            tables[what] = table(report)
            if what == "serialised":
                [claim] = [one.claim for one in report.findings if one.id == "cuda_host.serialised"]
                assert "cudaStreamSynchronize" in claim
                assert all(f"{stream:#x}" in claim for stream in program.streams), "the culprit, and what it holds"
                overlap = report.get(OverlapTable)
                assert overlap is not None and overlap.devices == (), "no GPU time is made up"
                assert [(one.kind, one.priced, one.told_by) for one in overlap.overlaps] == [
                    ("free", False, "cuda_host.serialised")]  # fmt: skip
                assert overlap.overlaps[0].net_ns <= overlap.calls[0].span_ns
    assert "cuda_host.serialised" in claims["serialised"]
    assert all(
        "cuda_host.serialised" not in found for what, found in claims.items() if what not in ("serialised", "ordered")
    )
    pairs = {(one.waited_for, one.held_back) for one in tables["ordered"].serialised}
    assert len(pairs) <= 1, "b waits for a's event: only a may be held back by b"
    for what in ("drained", "pageable", "allocate"):
        planted = {"allocate": "allocator"}.get(what, what)
        assert f"cuda_host.{planted}" in claims[what]
        assert all(f"cuda_host.{planted}" not in claims[other] for other in claims if other not in (what, "allocate"))
    assert tables["drained"].drained_ns >= 49 * 1_000_000, "a millisecond in each round but the last"
    assert tables["tiny"].launches == 4000 and tables["allocate"].allocator.allocations == 100
    assert tables["allocate"].allocator.repeated == 99
    assert (tables["graph"].graph_launches, tables["graph"].graph_launch_share) == (20, 1.0)
    [copies] = [one for one in tables["pageable"].copies if one.host_memory == "pageable"]
    assert (copies.calls, copies.size_bytes) == (100, 100 << 20)


@DISTURBED
def test_tiny_launches_on_a_device_that_keeps_up(built: Built, tmp_path: Path) -> None:
    """Without work for the device the launches set the pace: 200 of them, then a wait that returns at once."""
    with built.run("instant") as program, record(program, tmp_path / "a.duckdb", ("tiny", 20)) as recording:
        report = build_report(recording)
    found = table(report)
    assert found.launches == 4000 and 10 <= found.bursts <= 20, "some are disturbed"
    assert "cuda_host.launch_bound" in {one.id for one in report.findings}


def test_a_captured_graph(built: Built, tmp_path: Path) -> None:
    with (
        built.run("shared") as program,
        record(program, tmp_path / "a.duckdb", ("capture", 1), ("graph", 10), ("launch", 3)) as recording,
    ):
        found = table(build_report(recording))
    assert (found.captured, found.graph_launches, found.launches) == (8, 10, 3)
    assert (found.graph_launch_share, found.graph_kernel_share) == (10 / 13, None), "nobody saw that graph being made"


@pytest.mark.parametrize("linked", ["shared", "static", "embedded"])
def test_kernels_of_a_captured_graph(built: Built, tmp_path: Path, linked: str) -> None:
    """Of a runtime without symbols only the driver's calls are seen, and the stub's runtime captures on its own."""
    orders = ("capture", 2), ("replay", 10), ("launch", 20)
    with built.run(linked) as program, record(program, tmp_path / "a.duckdb", *orders) as recording:
        report = build_report(recording)
        made = recording.rows(
            "SELECT address, graph FROM device_call WHERE what = 'graph_instantiate' ORDER BY call_id"
        )
    found = table(report)
    if linked == "embedded":
        assert (found.graph_kernels, found.graph_kernel_share, made) == (0, None, [])
        return
    assert made == [(0x11234, 0x1234), (0x11235, 0x1235)]
    assert (found.captured, found.graph_launches, found.graph_launches_known) == (16, 10, 10)
    assert (found.graph_kernels, found.graph_kernel_share) == (80, 80 / 100)
    assert json.loads(json_viewer.render(report))["gpu"]["graph_launch_share"] == 0.8


def test_gpu_time_is_not_invented(built: Built, tmp_path: Path) -> None:
    with built.run("shared") as program, record(program, tmp_path / "a.duckdb", ("everything", 2)) as recording:
        report = build_report(recording)
        assert recording.rows("SELECT count(*) FROM gpu_slice") == [(0,)]
    out = io.StringIO()
    terminal.show(report, out, 100)
    assert "GPU execution not observed" in out.getvalue()
    told = json.loads(json_viewer.render(report))
    times = dict.fromkeys(("busy_ns", "idle_ns", "exposed_copy_ns", "exposed_comm_ns"))
    share = told["cuda_host"]["graph_launch_share"]
    assert share > 0
    assert told["gpu"] == {**times, "graph_launch_share": share, "graph_launch_basis": "of launching calls"}


def test_names_of_the_driver_s_functions(built: Built, tmp_path: Path) -> None:
    """Two functions have one handle, one after the other; a kernel's function; a name that is too long."""
    orders = ("named", 3), ("driver", 1)
    with built.run("driver") as program, record(program, tmp_path / "a.duckdb", *orders) as recording:
        rows = [row for row in frames(recording) if row["what"] == "launch" and not row["inner"]]
        kernels = {one.name: one.launches for one in table(build_report(recording)).kernels}
    expected = ["triton_poi_fused_add_0", RMS_NORM, "triton_red_fused_sum_1", "x" * 255]
    assert [row["name"] for row in rows] == 3 * expected + 2 * ["function 0x5000"], "of one nobody saw where it is from"
    assert kernels == {**dict.fromkeys(expected, 3), "function 0x5000": 2}


def test_what_makes_graphs_is_seen_outside_of_windows(built: Built, tmp_path: Path) -> None:
    """A graph that is made anew between two windows is not the one that was known before."""
    with built.run("shared") as program:
        with recording_of([program.pid], tmp_path / "a.duckdb", levels=LEVELS, budget=0.05) as run:
            deadline = time.monotonic() + 30
            for level, order in (("op", "capture"), ("token", "capture"), ("op", "replay")):
                while run.recorder.progress.level != level:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                program.tell(order)
        with Recording.open(str(tmp_path / "a.duckdb")) as recording:
            made = recording.rows("SELECT count(*) FROM device_call WHERE what = 'graph_instantiate'")
            launched = recording.rows("SELECT count(*) FROM device_call WHERE what = 'graph_launch'")
            found = table(build_report(recording))
    assert made == [(2,)]
    assert (found.graph_launches, found.graph_launches_known) == (launched[0][0], 0)


def test_a_recording_with_a_budget_has_windows(built: Built, tmp_path: Path) -> None:
    """Calls outside of the windows are not seen, and nothing is claimed across them."""
    with built.run("shared") as program:
        with recording_of([program.pid], tmp_path / "a.duckdb", levels=LEVELS, budget=0.5) as run:
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                program.tell("drained", 20)
            assert run.recorder.progress.events
        with Recording.open(str(tmp_path / "a.duckdb")) as recording:
            found = table(build_report(recording))
            deep = recording.rows("SELECT sum(end_ns - start_ns) FROM probe_window WHERE level = 'op'")[0][0]
    assert 0 < found.span_ns <= deep
    assert 0 < found.drained_ns <= found.span_ns


def test_hostile_arguments(built: Built, tmp_path: Path) -> None:
    with built.run("shared") as program, record(program, tmp_path / "a.duckdb", ("wild", 5)) as recording:
        rows, report = frames(recording), build_report(recording)
    assert not [one for one in report.sections if one.status == "failed"]
    launches = [row for row in rows if row["what"] == "launch"][:3]
    assert [row["grid"] for row in launches[:2]] == ["[4294967295, 65535, 65535]"] * 2
    assert launches[0]["block"] == "[4095, 4095, 255]" and launches[0]["shared_bytes"] == 4294967295
    assert [row["name"] for row in launches] == ["odd <b>name</b> \x1b[31m", None, None]
    assert {row["bytes"] for row in rows if row["what"] == "copy"} == {None}
    assert {row["direction"] for row in rows if row["what"] == "copy"} == {None}
    out = io.StringIO()
    terminal.show(report, out, 200)
    assert "odd" in out.getvalue() and "\x1b" not in out.getvalue()


without_gpu = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="calls fail only where there is no GPU")


@pytest.mark.engine
@without_gpu
def test_the_real_runtime(built: Built, tmp_path: Path) -> None:
    """Without a GPU every call fails, with an error of its own; the probes see them, with all that they are about."""
    program = Program(built.programs["real"][0], real_runtime())
    with program, record(program, tmp_path / "a.duckdb", ("everything", 3), ("copies", 1), ("wild", 1)) as recording:
        rows, report = frames(recording), build_report(recording)
        costs = recording.rows("SELECT DISTINCT cost_class FROM probe_site WHERE level = 'op' ORDER BY 1")
    assert costs == [("emulated",), ("return",)], "each function of the real one begins with a push"
    whole = rows[: 3 * sum(COUNTS.values())]
    assert Counter(row["api"] for row in whole) == {name: 3 * number for name, number in COUNTS.items()}
    assert not any(row["inner"] for row in rows)
    assert 0 not in {row["result"] for row in whole}
    launches = [(row["name"], row["grid"], row["block"], row["shared_bytes"], row["stream"]) for row in whole
                if row["what"] == "launch"][:3]  # fmt: skip
    size = "[7, 5, 3]", "[256, 2, 1]"
    assert launches == [(RMS_NORM, *size, 4096, 0xA000), (GEMM, *size, 0, 0xA000), (GEMM, *size, 1024, 0xA000)]
    sizes = [row["bytes"] for row in whole if row["what"] in ("copy", "memset", "allocate")][:11]
    assert sizes == [12345, 23456, 65536, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 65536]
    copies = rows[len(whole) :][: len(LARGE_COPIES)]
    assert [(row["api"], row["bytes"], row["direction"]) for row in copies] == [copy[:3] for copy in LARGE_COPIES]
    found = table(report)
    assert found.failed == len(rows) and found.launches == 0 == found.drained_ns and not found.streams
    assert {one.id for one in report.findings if one.id.startswith("cuda_host.")} == {"cuda_host.failed"}


@pytest.mark.engine
@without_gpu
def test_kernels_of_a_library_that_others_built(tmp_path: Path) -> None:
    """bitsandbytes on NVIDIA's runtime: the kernel's own name, and its sizes as the library's source computes them.

    Without a GPU it gives up after the first launch, and the process is gone before its kernel is looked up.
    """
    with Program(*real_kernels(tmp_path / "libraries")) as program:
        with recording_of([program.pid], tmp_path / "a.duckdb", levels=LEVELS, budget=None) as run:
            while run.recorder.progress.level != "op":
                time.sleep(0.01)
            assert program.process.stdin is not None
            program.process.stdin.write(b"now\n")
            program.process.stdin.flush()
            assert program.process.wait(30) == 1
        with Recording.open(str(tmp_path / "a.duckdb")) as recording:
            [launch] = [row for row in frames(recording) if row["what"] == "launch"]
    assert launch["name"] == (
        "void kQuantizeBlockwise<float, 64, 2, 0, 0>(float*, float*, float*, unsigned char*, float*, int, int)"
    )
    assert (launch["api"], launch["grid"], launch["block"]) == ("cudaLaunchKernel", "[64, 1, 1]", "[32, 1, 1]")
    assert launch["result"] == 35, "the driver is not there"
    elf = ElfFile(str(tmp_path / "libraries" / "libkernels.so"))
    registered = registered_kernels(elf)
    assert registered, "one of its stubs is not visible from outside"
    assert {address: symbol.name for address in registered if (symbol := elf.symbols().at(address))} == registered
