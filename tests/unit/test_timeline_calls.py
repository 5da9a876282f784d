"""Lanes of calls and GPU work: by thread and depth, by stream, and who launched what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from device_calls import Program
from flowprof.profiler.store import Recording
from flowprof.profiler.timeline import timeline
from flowprof.profiler.timeline_calls import MAX_DEPTH, NO_LANE
from flowprof.viewers.packing import BLOCKS, pack


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Two threads (7: an operator that launches twice, and is busier), two streams, one slice that nobody launched."""
    path = tmp_path / "x.duckdb"
    with Recording.create(str(path)) as recording:
        recording.append(
            "api_call",
            {
                "call_id": [1, 2, 3, 4, 5, 6], "pid": 1, "tid": [7, 7, 7, 8, 7, 7],
                "kind": ["operator", "runtime", "runtime", "operator", "annotation", "operator"],
                "name": ["aten::mm", "cudaLaunchKernel", "cudaMemcpyAsync", "aten::copy_", "step 1", "aten::mm"],
                "start_ns": [1000, 1100, 1300, 1050, 900, 5000], "end_ns": [2000, 1200, 1400, 1060, 6000, None],
                "depth": [0, 1, 1, 0, 0, 0], "correlation": [None, 41, 42, None, None, None],
                "args_id": [1, None, None, None, None, None],
            },
        )  # fmt: skip
        recording.append("api_args", {"args_id": [1], "dims": ["[[2, 3], [3, 4]]"], "types": ['["float", "float"]'],
                                      "scalars": ['["", ""]']})  # fmt: skip
        recording.append(
            "gpu_slice",
            {
                "slice_id": [1, 2, 3, 4], "device": 0, "stream": [7, 9, 7, 7],
                "kind": ["kernel", "copy", "kernel", "sync"], "name": ["sgemm<1>", "Memcpy HtoD", "lost", "wait"],
                "start_ns": [1500, 1600, 1700, 1], "end_ns": [1600, 1900, 1710, 2], "correlation": [41, 42, 99, 1],
            },
        )  # fmt: skip
        recording.append("thread", {"pid": [1], "tid": [7], "comm": ["python"]})
    return path


def test_lanes(recorded: Path) -> None:
    with Recording.open(str(recorded)) as recording:
        found = timeline(recording)
    calls = found.calls
    assert found.origin_ns == 1000 and found.end_ns == 1000
    assert [(lane.label, lane.depth, lane.start_ns.tolist(), lane.dur_ns.tolist()) for lane in calls.lanes] == [
        ("calls · thread 7 python", 0, [0], [1000]),
        ("calls · thread 7 python", 1, [100, 300], [100, 100]),
        ("calls · thread 8", 0, [50], [10]),
        ("GPU 0 · stream 7", 0, [500, 700], [100, 10]),
        ("GPU 0 · stream 9", 0, [600], [300]),
    ]
    names = [[calls.kinds[kind].name for kind in lane.kind] for lane in calls.lanes]
    assert names == [["aten::mm"], ["cudaLaunchKernel", "cudaMemcpyAsync"], ["aten::copy_"], ["sgemm<1>", "lost"],
                     ["Memcpy HtoD"]]  # fmt: skip
    blocks = {kind.name: kind.block for kind in calls.kinds}
    assert blocks == {"aten::mm": "products", "aten::copy_": "copies", "cudaLaunchKernel": "launches",
                      "cudaMemcpyAsync": "copies", "sgemm<1>": "products", "lost": "other",
                      "Memcpy HtoD": "copies"}  # fmt: skip
    assert set(blocks.values()) <= set(BLOCKS)
    assert next(kind.shape for kind in calls.kinds if kind.name == "aten::mm") == "2x3 · 3x4 f32"
    kernels, copies = calls.lanes[3:]
    assert kernels.flow_lane is not None and kernels.flow_item is not None
    assert kernels.flow_lane.tolist() == [1, NO_LANE] and kernels.flow_item.tolist()[0] == 0
    assert copies.flow_lane is not None and copies.flow_item is not None
    assert (copies.flow_lane.tolist(), copies.flow_item.tolist()) == ([1], [1])
    assert (calls.total, calls.shown) == (7, 7)
    description, arrays = pack(found)
    assert [lane["under"] for lane in description["lanes"]] == [False, True, False, False, False]
    assert arrays and "flow_lane" in description["lanes"][3] and "flow_lane" not in description["lanes"][0]


def test_equal_numbers_of_two_processes(tmp_path: Path) -> None:
    """A slice's own process launched it; of one whose process is not known nothing is said."""
    with Recording.create(str(tmp_path / "x.duckdb")) as recording:
        recording.append(
            "api_call",
            {"call_id": [1, 2], "pid": [1, 2], "tid": [7, 8], "kind": "runtime", "name": "cudaLaunchKernel",
             "start_ns": [100, 200], "end_ns": [150, 240], "correlation": 41},
        )  # fmt: skip
        recording.append(
            "gpu_slice",
            {"slice_id": [1, 2, 3], "pid": [2, 1, None], "device": 0, "stream": [7, 9, 11], "kind": "kernel",
             "name": "k", "start_ns": [300, 310, 320], "end_ns": [400, 400, 400], "correlation": 41},
        )  # fmt: skip
    with Recording.open(str(tmp_path / "x.duckdb")) as recording:
        lanes = timeline(recording).calls.lanes
    assert [lane.label for lane in lanes[:2]] == ["calls · process 1 · thread 7", "calls · process 2 · thread 8"]
    assert [lane.flow_lane.tolist() for lane in lanes[2:] if lane.flow_lane is not None] == [[1], [0], [NO_LANE]]


def test_what_calls_of_cuda_are_about(tmp_path: Path) -> None:
    """Two kernels on one stream are two kinds."""
    program = Program()
    program.launch(0, 0xA000, name="gemm<float>")
    program.launch(10, 0xA000, name="norm")
    program.launch(20, 0xA000, name="gemm<float>")
    program.call("cudaMemcpyAsync", 30, 5, 0, bytes=64, direction="HtoD", host_memory="pageable")
    program.sync(40, 5, None)
    program.call("cudaMalloc", 50, 5, None, bytes=64)
    program.call("cudaEventRecord", 60, 1, 0xA000, address=7)
    with program.write(tmp_path / "a.duckdb") as recording:
        found = timeline(recording)
    [lane] = found.calls.lanes
    kinds = [found.calls.kinds[kind] for kind in lane.kind]
    assert [(kind.block, kind.shape) for kind in kinds] == [
        ("launches", "gemm<float> · stream 0xa000"), ("launches", "norm · stream 0xa000"),
        ("launches", "gemm<float> · stream 0xa000"), ("copies", "HtoD · pageable · stream default"), ("waits", ""),
        ("allocation", ""), ("API calls", "stream 0xa000"),
    ]  # fmt: skip
    assert {kind.block for kind in kinds} <= set(BLOCKS)
    pack(found)


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [("nccl", "ncclAllReduce", "API call"), ("collective", "c10d::execute", "collective")],
)
def test_collectives_on_the_host_have_a_lane(tmp_path: Path, kind: str, name: str, what: str) -> None:
    with Recording.create(str(tmp_path / "x.duckdb")) as recording:
        recording.append(
            "api_call",
            {"call_id": [1], "pid": [1], "tid": [7], "kind": kind, "name": name, "start_ns": [100],
             "end_ns": [150]},
        )  # fmt: skip
    with Recording.open(str(tmp_path / "x.duckdb")) as recording:
        found = timeline(recording)
    [lane] = found.calls.lanes
    assert (found.origin_ns, lane.start_ns.tolist()) == (100, [0])
    assert [(one.what, one.name, one.block) for one in found.calls.kinds] == [(what, name, "collectives")]


def test_the_longest_are_kept(recorded: Path) -> None:
    with Recording.open(str(recorded)) as recording:
        calls = timeline(recording, limit=2).calls
    assert (calls.total, calls.shown) == (7, 4)
    assert [lane.dur_ns.tolist() for lane in calls.lanes] == [[1000], [100], [100], [300]]


def test_deep_calls_are_left_out(tmp_path: Path) -> None:
    deep = MAX_DEPTH + 3
    with Recording.create(str(tmp_path / "x.duckdb")) as recording:
        recording.append(
            "api_call",
            {"call_id": list(range(deep)), "pid": 1, "tid": 1, "kind": "operator", "name": "aten::mm",
             "start_ns": np.arange(deep), "end_ns": 1000 - np.arange(deep), "depth": np.arange(deep)},
        )  # fmt: skip
    with Recording.open(str(tmp_path / "x.duckdb")) as recording:
        calls = timeline(recording).calls
    assert len(calls.lanes) == MAX_DEPTH and (calls.total, calls.shown) == (deep, MAX_DEPTH)
