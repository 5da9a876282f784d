"""Kineto's JSON: what differs between writers, and what a recording says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers.writing import COLLECTIVE, copied
from flowprof.profiler.store import Recording
from traces import Event, imported, kineto, slice_, step, text, work

LINKS = """
SELECT w.kind, w.name, w.launch, o.name, w.in_graph, w.dur_ns FROM gpu_work w
LEFT JOIN api_call o ON o.call_id = w.operator_id ORDER BY w.start_ns
"""
ADDMM = ("kernel", "sgemm<float>", "cudaLaunchKernel", "aten::addmm", False, 20_000)
COPY = ("copy", "Memcpy DtoH (Device -> Pinned)", "cudaMemcpyAsync", None, False, 5_000)


def links(recording: Recording) -> list[tuple[Any, ...]]:
    with recording:
        return recording.rows(LINKS)


def test_kernels_find_their_launches_and_operators(tmp_path: Path) -> None:
    assert links(imported(kineto(tmp_path / "a.json"))) == [ADDMM, ADDMM, COPY]


def test_facts_and_args(tmp_path: Path) -> None:
    facts = {"baseTimeNanoseconds": 1_700_000_000_000_000_000, "distributedInfo": {"rank": 3, "world_size": 8}}
    names = [{"ph": "M", "name": "process_name", "pid": 10, "tid": 0, "args": {"name": "python3"}},
             {"ph": "M", "name": "process_name", "pid": 0, "tid": 0, "args": {"name": "python3"}},  # the GPU
             {"ph": "M", "name": "thread_name", "pid": 10, "tid": 10, "args": {"name": "main"}},
             {"ph": "M", "name": "thread_name", "pid": 10, "tid": 11,
              "args": {"name": "thread 11 (pt_autograd_0)"}}]  # fmt: skip
    with imported(kineto(tmp_path / "a.json.gz", step() + names, **facts)) as recording:
        meta = recording.meta()
        assert meta["imported_from"] == "Kineto JSON"
        assert meta["imported_file"] == "a.json.gz"
        assert meta["gpu_model"] == "1 x NVIDIA H100 80GB HBM3"
        assert (meta["started_ns"], meta["stopped_ns"]) == ("1000000", "1065000")
        assert meta["started_unix_ns"] == "1700000000001000000"
        assert meta["distributed_rank"] == "3"
        assert recording.rows("SELECT pid, exe FROM process") == [(10, "python3")]
        assert recording.rows("SELECT pid, tid, comm FROM thread ORDER BY tid") == [
            (10, 10, "main"), (10, 11, "pt_autograd_0")]  # fmt: skip
        assert recording.rows("SELECT * FROM gpu_device") == [(0, "NVIDIA H100 80GB HBM3", None)]
        [(dims, types)] = recording.rows("SELECT dims, types FROM api_args")
        assert json.loads(dims) == [[16], [64, 32], [32, 16], [], []]
        assert json.loads(types)[1] == "float"
        assert recording.rows("SELECT name, depth, parent_id IS NULL FROM api_call WHERE start_ns < 1030000") == [
            ("aten::linear", 0, True), ("aten::addmm", 1, False), ("cudaLaunchKernel", 2, False)]  # fmt: skip
        [copy] = recording.rows(
            "SELECT direction, host_memory, bytes, device, stream FROM gpu_slice WHERE kind = 'copy'"
        )
        assert copy == ("DtoH", "pinned", 4096, 0, 7)
        assert recording.rows("SELECT DISTINCT grid, block FROM gpu_slice WHERE kind = 'kernel'") == [
            ("[1,2,1]", "[128,1,1]")]  # fmt: skip


def old(event: Event) -> Event:
    """As PyTorch 1.8 wrote it: other categories, and texts for thread ids."""
    names = {"cpu_op": "Operator", "cuda_runtime": "Runtime", "kernel": "Kernel", "gpu_memcpy": "Memcpy"}
    args = dict(event["args"])
    if event["cat"] == "kernel":
        args["external id"] = args.pop("External id")
    if "Input Dims" in args:
        args["Input dims"] = args.pop("Input Dims")
    tid = f"stream {event['tid']}" if "stream" in args else str(event["tid"])
    return event | {"cat": names[event["cat"]], "args": args, "tid": tid}


def hip(event: Event) -> Event:
    quoted = {"bytes": "4096", "kind": "2"} if event["name"] == "cudaMemcpyAsync" else {}
    name = "Memcpy 2 (Device -> Host)" if event["cat"] == "gpu_memcpy" else event["name"].replace("cuda", "hip")
    return event | {"name": name, "args": event["args"] | quoted}


def as_pairs(events: list[Event]) -> list[Event]:
    """B and E instead of X."""
    found = []
    for event in events:
        begin = {key: value for key, value in event.items() if key != "dur"} | {"ph": "B"}
        found += [(event["ts"], 0, begin),
                  (event["ts"] + event["dur"], 1, {"ph": "E", "pid": event["pid"], "tid": event["tid"],
                                                   "ts": event["ts"] + event["dur"]})]  # fmt: skip
    return [event for _, _, event in sorted(found, key=lambda one: (one[0], one[1]))]


def unnumbered(event: Event) -> Event:
    return event | {"args": {key: value for key, value in event["args"].items() if key != "External id"}}


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([old(event) for event in step()], id="PyTorch 1.8"),
        pytest.param([unnumbered(event) for event in step()], id="no External id: the operator around the launch"),
        pytest.param(as_pairs(step()), id="B and E"),
        pytest.param(list(reversed(step())), id="out of order"),
        pytest.param(
            [*step(), {"ph": "s", "id": 1, "ts": 1, "cat": "ac2g"}, {"ph": "C", "name": "c", "ts": 3}], id="flows"
        ),
        pytest.param([*step(), slice_("Trace", "PyTorch Profiler (0)", 0, 9e6, "Spans", "x")], id="the profiler's own"),
        pytest.param([*step(), slice_("cpu_op", "late", -5, -1), slice_("kernel", "e", 1e40, 1)], id="absurd times"),
        pytest.param([*step(), slice_("gpu_user_annotation", "step", 0, 9e3, 0, 7)], id="annotations are no work"),
    ],
)
def test_writers(tmp_path: Path, events: list[Event]) -> None:
    assert links(imported(kineto(tmp_path / "a.json", events))) == [ADDMM, ADDMM, COPY]


def test_rocm(tmp_path: Path) -> None:
    """HIP's names, quoted numbers, and devices that are numbered otherwise than listed."""
    events = [hip(event) for event in step()]
    for event in events:
        if "device" in event["args"]:
            event["args"]["device"] = event["pid"] = 9
    with imported(
        kineto(tmp_path / "a.json", events, deviceProperties=[{"id": 0, "name": "AMD Instinct MI300X"}])
    ) as it:
        assert [row[2:4] for row in it.rows(LINKS)] == [("hipLaunchKernel", "aten::addmm")] * 2 + [
            ("hipMemcpyAsync", None)
        ]
        assert it.rows("SELECT device, name FROM gpu_device") == [(9, "AMD Instinct MI300X")]
        assert not it.rows("SELECT * FROM loss")
        assert it.rows("SELECT direction, host_memory, bytes FROM gpu_slice WHERE kind = 'copy'") == [
            ("DtoH", None, 4096)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Memcpy DtoH (Device -> Pinned)", ("DtoH", "pinned")),
        ("Memcpy HtoD (Pageable -> Device)", ("HtoD", "pageable")),
        ("Memcpy PtoP", ("PtoP", None)),
        ("MemCpy HtoD", ("HtoD", None)),
        ("Memcpy HtoD (Host -> Device)", ("HtoD", None)),  # ROCm
        ("Memcpy 1 (Host -> Device)", ("HtoD", None)),
        ("Memcpy 4 (Device -> Device)", ("DtoD", None)),
        ("Memcpy <unknown> (Pinned -> Device)", ("HtoD", "pinned")),
        ("Memcpy <unknown> (? -> ?)", (None, None)),
        ("CopyDeviceToHost", ("DtoH", None)),
        ("CopyHostToDevice2D", ("HtoD", None)),
        ("something", (None, None)),
    ],
)
def test_directions_of_copies(name: str, expected: tuple[str | None, str | None]) -> None:
    assert copied(name) == expected


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("ncclDevKernel_AllReduce_Sum_bf16", True),
        ("void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<x>(y)", True),
        ("void tensorrt_llm::kernels::ar_fusion::allreduce_fusion_kernel_twoshot_sync<x>(y)", True),
        ("void tensorrt_llm::kernels::twoShotAllReduceKernel<__half, 8>(y)", True),
        ("void multimem_all_reduce_kernel<c10::BFloat16, 16>(y)", True),
        ("void two_shot_all_reduce_kernel_inplace<c10::BFloat16, 16, 8>(y)", True),
        ("void one_shot_all_reduce_kernel<c10::BFloat16, 16, 8>(y)", True),
        ("void quickreduce::allreduce_prototype_twoshot<quickreduce::AllReduceTwoshot<x> >(y)", True),
        ("void deep_ep::intranode::dispatch<8, 768, 8192>(y)", True),
        ("void deep_ep::internode_ll::combine<false, 3, 7168, 9>(y)", True),
        ("void vllm::cross_device_reduce_2stage<c10::BFloat16, 2>(y)", True),
        ("void deep_ep::layout::get_dispatch_layout<256, 32, 2>(y)", False),
        ("void at::native::reduce_kernel<512, 1, x>(y)", False),
        ("void cub::DeviceReduceKernel<x>(y)", False),
        ("void moe_combine_kernel<c10::BFloat16>(y)", False),
        ("_dispatch_tokens_triton", False),
    ],
)
def test_collectives_by_name(name: str, network: bool) -> None:
    assert bool(COLLECTIVE.search(name)) == network


@pytest.mark.parametrize(
    ("scale", "offset", "facts"),
    [
        (1, 0, {}),
        (1, 1_428_625_731_896, {"baseTimeNanoseconds": 1_751_410_836_000_000_000}),
        (1, 1_712_867_402_348_256, {}),  # since 1970, in µs
        (1000, 1_428_625_731_896_000, {"baseTimeNanoseconds": 1_751_410_836_000_000_000}),
        (1000, 1_712_867_402_348_256_000, {}),  # since 1970, in ns
    ],
)  # fmt: skip
def test_microseconds_and_nanoseconds(tmp_path: Path, scale: int, offset: int, facts: dict[str, int]) -> None:
    events = [event | {"ts": int(event["ts"]) * scale + offset, "dur": event["dur"] * scale} for event in step()]
    with imported(kineto(tmp_path / "a.json", events, **facts)) as recording:
        assert [row[5] for row in recording.rows(LINKS)] == [20_000, 20_000, 5_000]
        begin = int(recording.meta()["started_ns"])
        assert begin == (offset + 1000 * scale) * (1000 // scale)


def test_decimals_are_nanoseconds(tmp_path: Path) -> None:
    events = [slice_("cpu_op", "a", 1_428_625_731_896.179, 2.503)]
    with imported(kineto(tmp_path / "a.json", events)) as recording:
        assert recording.rows("SELECT start_ns, end_ns FROM api_call") == [
            (1_428_625_731_896_179, 1_428_625_731_898_682)]  # fmt: skip


def test_slices_that_do_not_nest(tmp_path: Path) -> None:
    events = [slice_("cpu_op", "a", 0, 10), slice_("cpu_op", "b", 5, 10), slice_("cpu_op", "c", 6, 2),
              slice_("cuda_runtime", "r", 12, 1), slice_("cpu_op", "other thread", 0, 99, tid=11)]  # fmt: skip
    with imported(kineto(tmp_path / "a.json", events)) as recording:
        around = dict(
            recording.rows("SELECT c.name, p.name FROM api_call c LEFT JOIN api_call p ON p.call_id = c.parent_id")
        )
    assert around == {"a": None, "b": None, "c": "b", "r": "b", "other thread": None}


def test_graphs_have_no_operator(tmp_path: Path) -> None:
    events = [slice_("cpu_op", "around", 0, 50, **{"External id": 1}),
              slice_("cuda_runtime", "cudaGraphLaunch", 1, 5, correlation=1),
              *(work("kernel", f"k{n}", 10 + n, 1, 1) for n in range(5))]  # fmt: skip
    assert {row[2:5] for row in links(imported(kineto(tmp_path / "a.json", events)))} == {
        ("cudaGraphLaunch", None, True)
    }


def test_collectives_and_their_bytes(tmp_path: Path) -> None:
    args = {"In msg nelems": 1024, "dtype": "BFloat16", "Collective name": "allreduce"}
    events = [work("kernel", "ncclDevKernel_AllReduce_Sum_bf16", 0, 5, 1, **args), work("kernel", "gemm", 0, 9, 2)]
    with imported(kineto(tmp_path / "a.json", events)) as recording:
        assert recording.rows("SELECT kind, bytes FROM gpu_slice ORDER BY kind") == [
            ("collective", 2048),
            ("kernel", None),
        ]


def test_two_processes_that_use_the_same_numbers(tmp_path: Path) -> None:
    """A merged trace: which process a kernel is of is not known, so it has no launch rather than a wrong one."""
    events = [slice_("cuda_runtime", "cudaLaunchKernel", 0, 1, pid, correlation=1) for pid in (10, 11)]
    rows = links(imported(kineto(tmp_path / "a.json", [*events, work("kernel", "k", 5, 1, 1)])))
    assert [row[:3] for row in rows] == [("kernel", "k", None)]


def test_zero_is_no_number(tmp_path: Path) -> None:
    events = [slice_("cpu_op", "a", 0, 9, **{"External id": 0}), slice_("cuda_runtime", "r", 1, 1, correlation=0),
              work("kernel", "k", 5, 1, 0, **{"External id": 0})]  # fmt: skip
    assert [row[:4] for row in links(imported(kineto(tmp_path / "a.json", events)))] == [("kernel", "k", None, None)]


def test_what_is_malformed_is_counted(tmp_path: Path) -> None:
    events = [*step(), slice_("cpu_op", "negative", 5, -1), slice_("kernel", "far", 1e300, 1), {"ph": "X", "args": []}]
    with imported(kineto(tmp_path / "a.json", events)) as recording:
        assert recording.rows("SELECT place, events FROM loss") == [("malformed_event", 3)]


@pytest.mark.filterwarnings("error")
def test_times_that_are_no_numbers(tmp_path: Path) -> None:
    """All of them: nothing is left, and nothing is printed on the way."""
    path = text(tmp_path / "a.json", '{"traceEvents": [{"ph": "X", "cat": "kernel", "name": "k", "ts": NaN}]}')
    with pytest.raises(RecordingError, match="neither calls nor GPU work"):
        imported(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("huge", [1 << 63, -(1 << 63), 1 << 64, 10**400])
def test_numbers_beyond_all_that_is(tmp_path: Path, huge: int) -> None:
    """Of threads, processes, times and memory: the event with the time is left out, the others have no such number."""
    odd = [slice_("cpu_op", "a", 1, 1, tid=huge), slice_("cpu_op", "b", 2, 1, pid=huge), slice_("cpu_op", "c", huge, 1)]
    facts = {"deviceProperties": [{"id": 0, "name": "A100", "totalGlobalMem": huge}]}
    with imported(kineto(tmp_path / "a.json", [*step(), *odd], **facts)) as recording:
        told = recording.rows("SELECT name, pid IS NULL, tid IS NULL FROM api_call WHERE length(name) = 1 ORDER BY 1")
        assert told == [("a", False, True), ("b", True, False)]
        assert recording.rows("SELECT name, memory_bytes FROM gpu_device") == [("A100", None)]
        assert recording.rows("SELECT events FROM loss") == [(1,)]


def test_what_synchronisations_wait_for(tmp_path: Path) -> None:
    """As with enable_cuda_sync_events; -1 is what Kineto writes for what it does not know."""
    calls = ("cudaEventRecord", "cudaStreamWaitEvent", "cudaEventSynchronize", "cudaStreamSynchronize",
             "cudaDeviceSynchronize", "cudaEventQuery")  # fmt: skip
    record = "wait_on_cuda_event_record_corr_id"
    events = [slice_("cuda_runtime", name, at, 1, correlation=at + 1) for at, name in enumerate(calls)]
    events += [
        work("cuda_sync", "Stream Wait Event", 5, 1, 2, 24, wait_on_stream=20, **{record: 1}),
        work("cuda_sync", "Event Sync", 5, 1, 3, -1, wait_on_stream=-1, **{record: 1}),
        work("cuda_sync", "Stream Sync", 5, 1, 4, 28),
        work("cuda_sync", "Context Sync", 5, 1, 5, -1),
        work("cuda_sync", "Event Sync", 5, 1, 6, -1, wait_on_stream=-1, **{record: -1}),
    ]
    events.append(work("cuda_event", "cudaEventRecord", 5, 0, 1, 20))
    with imported(kineto(tmp_path / "a.json", [*events, *step()])) as recording:
        assert recording.rows("SELECT * FROM gpu_sync ORDER BY correlation") == [
            (None, 2, 24, 20, 1), (None, 3, None, 20, 1), (None, 4, None, 28, None)]  # fmt: skip
        assert recording.rows("SELECT DISTINCT kind FROM gpu_work ORDER BY 1") == [("copy",), ("kernel",)]
        assert recording.rows("SELECT * FROM event_note") == []


def test_names_that_are_hostile(tmp_path: Path) -> None:
    events = [
        *step(),
        slice_("cpu_op", "x" * 3_000_000, 0, 1),
        slice_("cpu_op", "\x1b[2J'; DROP TABLE meta; --\x00", 0, 1),
    ]
    with imported(text(tmp_path / "a.json", json.dumps(events))) as recording:
        assert recording.rows("SELECT max(length(name)), count(*) FROM api_call") == [(4096, 9)]
        assert "imported_from" in recording.meta()
