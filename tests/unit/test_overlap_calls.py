"""Missed overlap where nobody recorded a GPU: calls of CUDA, and PyTorch's operators, whose truth is known."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from device_calls import Program
from flowprof.profiler.analyzers import overlap
from flowprof.profiler.report import build_report
from flowprof.profiler.report import timeline as draw
from flowprof.profiler.sections.overlap import OverlapTable
from flowprof.profiler.store import Recording
from flowprof.viewers import html, missed, terminal
from flowprof.viewers import json as json_viewer

US, MS = 1000, 1_000_000
A, B = 0xA000, 0xB000


def cuda(path: Path, program: Program) -> OverlapTable:
    with program.write(path / "a.duckdb") as recording:
        return overlap.table(recording)


# ---------------------------------------------------------------------- calls of CUDA


def serial(between: str, api: str = "cudaStreamSynchronize") -> Program:
    """Ten times: work for A, a call about A of 100 µs, work for B that takes 58 µs at most."""
    program = Program()
    for number in range(10):
        at = 200.0 * number
        program.launch(at, A)
        if between == "wait":
            program.sync(at + 8, 100, A)
        else:
            program.call(api, at + 8, 100, A, bytes=1 << 20, direction="HtoD", host_memory=between)
            program.sync(at + 190, 5, A)
        program.launch(at + 110, B)
        program.sync(at + 118, 50, B)
    return program


@pytest.mark.parametrize(("between", "said"), [("wait", "synchronise"), ("pageable", "pageable copy")])
def test_a_call_that_holds_back_another_stream(tmp_path: Path, between: str, said: str) -> None:
    found = cuda(tmp_path, serial(between, "cudaMemcpyAsync"))
    one = next(one for one in found.overlaps if "0xb000 beside" in one.what)
    assert (one.kind, one.count, one.exposed_ns) == ("free", 9, 9 * 58 * US), "B's work took no longer"
    assert one.ideal_ns == one.aware_ns == one.net_ns and not one.priced, "nobody knows what they share"
    assert said in one.culprit and one.confidence == "low"
    assert one.share == pytest.approx(one.net_ns / one.base_ns)
    assert found.devices == () and found.calls[0].idle == "streams empty"


@pytest.mark.parametrize(("memory", "api"), [("pinned", "cudaMemcpyAsync"), ("pageable", "cudaMemcpy")])
def test_a_copy_that_is_not_held_up_or_is_an_order(tmp_path: Path, memory: str, api: str) -> None:
    """A pinned copy holds nobody; the program may take a synchronous one for the order that it needs."""
    assert not [one for one in cuda(tmp_path, serial(memory, api)).overlaps if "Memcpy" in one.culprit]


def test_one_finding_says_it_once(tmp_path: Path) -> None:
    for between, finding, other in (("wait", "cuda_host.serialised", "overlap.free"),
                                    ("pageable", "overlap.free", "cuda_host.serialised")):  # fmt: skip
        with serial(between, "cudaMemcpyAsync").write(tmp_path / "a.duckdb") as recording:
            ids = [one.id for one in build_report(recording).findings]
        assert finding in ids and other not in ids


def test_the_host_s_work_while_all_streams_are_empty(tmp_path: Path) -> None:
    """A is empty from 50 to 90 µs: the host allocates for 10 of it, half of that in an operator of 20."""
    program = Program()
    program.launch(0, A)
    program.sync(10, 40, A)
    program.call("cudaMalloc", 55, 10, None, bytes=64)
    program.launch(90, A)
    with program.write(tmp_path / "a.duckdb") as recording:
        recording.shadow("api_call", {
            "call_id": [0, 1, 2, 3, 9], "pid": 1, "tid": 1, "kind": ["runtime"] * 4 + ["operator"],
            "name": ["cudaLaunchKernel", "cudaStreamSynchronize", "cudaMalloc", "cudaLaunchKernel", "aten::mm"],
            "start_ns": [0, 10 * US, 55 * US, 90 * US, 60 * US], "end_ns": [5 * US, 50 * US, 65 * US, 95 * US, 80 * US],
            "parent_id": [None, None, None, None, None], "depth": 0,
        })  # fmt: skip
        [one] = overlap.table(recording).calls
    assert (one.span_ns, one.idle_ns) == (95 * US, 40 * US)
    times = {time.kind: (time.busy_ns // US, time.exposed_ns // US) for time in one.times}
    assert times == {"operators": (15, 15), "launches": (10, 0), "allocation": (10, 10), "waits": (40, 0),
                     "elsewhere": (20, 15)}  # fmt: skip


def test_no_gpu_time_is_made_up_of_calls(tmp_path: Path) -> None:
    program = Program()
    for number in range(50):
        program.launch(10.0 * number, A)
    found = cuda(tmp_path, program)
    assert found.overlaps == () and found.calls[0].idle_ns == 0, "without a wait nothing is known to be empty"
    assert any("one stream" in why for why in found.refused)
    with serial("wait").write(tmp_path / "a.duckdb") as recording:
        recording.shadow("loss", {"window_id": [0], "place": ["ring"], "events": [1]})
        lost = overlap.table(recording)
    assert lost.overlaps == () == lost.calls and "events were lost" in lost.refused[0]


# ---------------------------------------------------------------------- PyTorch on processors

LOADER, MAIN = 77, 1
KINDS = {"c10d::execute": "collective", "TorchScript": "annotation", "autograd::engine::execute": "annotation"}


def torch(path: Path, calls: list[tuple[str, int, int, int]], comms: dict[int, str] | None = None,
          windows: list[tuple[int, int]] | None = None, parent: dict[int, int] | None = None) -> Recording:  # fmt: skip
    """calls: name, thread (a loader's: a process of its own), start and end in ms."""
    own = {tid: tid if (parent or {}).get(tid) else MAIN for _, tid, _, _ in calls}
    with Recording.create(str(path / "a.duckdb"), overwrite=True) as recording:

        def put(name: str, columns: dict[str, Any]) -> None:
            recording.append(name, columns)

        put("api_call", {
            "call_id": list(range(len(calls))), "pid": [own[tid] for _, tid, _, _ in calls],
            "tid": [tid for _, tid, _, _ in calls], "name": [name for name, _, _, _ in calls],
            "kind": [KINDS.get(name, "operator") for name, _, _, _ in calls],
            "start_ns": [start * MS for _, _, start, _ in calls], "end_ns": [end * MS for _, _, _, end in calls],
            "depth": 0,
        })  # fmt: skip
        if comms:
            put("thread", {"pid": [own[tid] for tid in comms], "tid": list(comms), "comm": list(comms.values())})
        if parent:
            put("process", {"pid": list(parent), "ppid": list(parent.values()), "exe": "python"})
        if windows:
            put("probe_window", {
                "window_id": list(range(len(windows))), "level": "op", "start_ns": [a * MS for a, _ in windows],
                "end_ns": [b * MS for _, b in windows],
            })  # fmt: skip
    return Recording.open(str(path / "a.duckdb"))


def loaded(step_ms: int = 40, load_ms: int = 30) -> list[tuple[str, int, int, int]]:
    """Ten times: a batch is loaded, then a step computes."""
    whole = step_ms + load_ms
    calls = [("aten::stack", LOADER, whole * n, whole * n + load_ms) for n in range(10)]
    return calls + [("aten::mm", MAIN, whole * n + load_ms, whole * (n + 1)) for n in range(10)]


@pytest.mark.parametrize("parent", [None, {LOADER: MAIN, MAIN: 0}], ids=["a thread", "a process"])
def test_batches_that_could_be_loaded_ahead(tmp_path: Path, parent: dict[int, int] | None) -> None:
    with torch(tmp_path, loaded(), {LOADER: "pt_data_worker", MAIN: "python"}, parent=parent) as recording:
        found, findings = overlap.table(recording), build_report(recording).findings
    [one] = found.overlaps
    assert (one.kind, one.exposed_ns, one.room_ns, one.net_ns) == ("free", 300 * MS, 400 * MS, 300 * MS)
    assert not one.priced and one.base_ns == 700 * MS
    [finding] = [one for one in findings if one.id == "overlap.free"]
    assert "prefetch_factor" in finding.advice
    [process] = found.calls
    assert {time.kind: time.exposed_ns // MS for time in process.times} == {"operators": 0, "data loading": 300}


def test_batches_that_are_loaded_ahead(tmp_path: Path) -> None:
    """The loader never rests: it is too slow, and loading ahead would gain nothing."""
    calls = [("aten::stack", LOADER, 70 * n, 70 * n + 70) for n in range(10)]
    calls += [("aten::mm", MAIN, 70 * n + 30, 70 * n + 70) for n in range(10)]
    with torch(tmp_path, calls, {LOADER: "pt_data_worker"}) as recording:
        assert overlap.table(recording).overlaps == ()


def test_copies_and_collectives_by_class(tmp_path: Path) -> None:
    """10 ms of each on the main thread, in an operator; another thread computes during half of the copy."""
    calls = [("aten::linear", 1, 0, 40), ("aten::copy_", 1, 10, 20), ("c10d::allreduce", 1, 50, 60),
             ("aten::mm", 2, 15, 25)]  # fmt: skip
    with torch(tmp_path, calls) as recording:
        found = overlap.table(recording)
    [one] = found.calls
    assert {time.kind: (time.busy_ns // MS, time.exposed_ns // MS) for time in one.times} == {
        "operators": (35, 0), "copies": (10, 5), "collectives": (10, 10)}  # fmt: skip
    assert (one.span_ns, one.idle_ns, one.idle) == (60 * MS, 10 * MS, "no operator")
    assert found.overlaps == ()
    assert "2 threads' operators ran side by side for 5 ms of 35 ms" in found.refused[0]
    assert [why.partition(":")[0] for why in found.refused[1:]] == ["copies", "collectives"]


def test_what_torchscript_calls_is_not_seen(tmp_path: Path) -> None:
    """It counts as arithmetic while it runs: nothing beside it is called exposed, and no thread idle. Other annotations
    say nothing of the kind."""
    calls = [("TorchScript", 1, 0, 40), ("aten::copy_", 2, 10, 20), ("aten::mm", 1, 41, 45),
             ("autograd::engine::execute", 3, 50, 60), ("aten::mm", 1, 61, 65)]  # fmt: skip
    with torch(tmp_path, calls) as recording:
        [one] = overlap.table(recording).calls
    assert {time.kind: (time.busy_ns // MS, time.exposed_ns // MS) for time in one.times} == {
        "operators": (48, 0), "copies": (10, 0)}  # fmt: skip
    assert (one.span_ns, one.idle_ns) == (65 * MS, 17 * MS)


def test_collectives_behind_their_calls(tmp_path: Path) -> None:
    """Two that take 30 ms on Gloo's thread: one is waited for at once, one has 25 ms of arithmetic beside it."""
    calls = [("c10d::allreduce", 1, 0, 1), ("c10d::execute", 9, 1, 31), ("c10d::wait", 1, 2, 32),
             ("c10d::allreduce", 1, 100, 101), ("c10d::execute", 9, 101, 131), ("aten::copy_", 9, 105, 110),
             ("aten::mm", 1, 102, 127), ("c10d::wait", 1, 127, 132)]  # fmt: skip
    with torch(tmp_path, calls) as recording:
        found = overlap.table(recording)
        [finding] = [one for one in build_report(recording).findings if one.id.startswith("overlap.")]
    assert finding.claim == "Process 1 computes nothing beside its collectives for 39 ms (29.5 %)"
    assert finding.evidence[0] == "process 1: 39 ms of 64 ms of collectives, of 132 ms"
    [one] = found.calls
    assert {time.kind: (time.busy_ns // MS, time.exposed_ns // MS) for time in one.times} == {
        "operators": (25, 0), "copies": (5, 0), "collectives": (64, 39)}  # fmt: skip
    assert one.idle_ns == 68 * MS
    assert (
        found.refused[-1] == "collectives: 39 ms with no arithmetic beside it; what needs their result is not recorded"
    )


def test_collectives_that_arithmetic_hides_are_no_finding(tmp_path: Path) -> None:
    """All but 9 of 100 ms: below a tenth nothing is said."""
    calls = [("c10d::execute", 9, 0, 100), ("aten::mm", 1, 0, 91)]
    with torch(tmp_path, calls) as recording:
        assert not [one for one in build_report(recording).findings if one.id.startswith("overlap.")]


def test_several_processes_are_told_apart(tmp_path: Path) -> None:
    """One computes, one only waits: nothing is said of arithmetic that it does not do."""
    calls = [("aten::mm", 1, 0, 50), ("c10d::wait", 77, 0, 50)]
    with torch(tmp_path, calls, parent={77: 5}) as recording:
        found = overlap.table(recording)
    assert [why.partition(": ")[0] for why in found.refused] == ["process 1", "process 77"]
    assert "collectives: 50 ms with no arithmetic" in found.refused[1]


def test_only_what_was_observed_counts(tmp_path: Path) -> None:
    """Between two windows nobody looked: that is no idle time."""
    calls = [("aten::mm", 1, 0, 10), ("aten::mm", 1, 100, 110)]
    with torch(tmp_path, calls, windows=[(0, 20), (90, 120)]) as recording:
        [one] = overlap.table(recording).calls
    assert (one.span_ns, one.idle_ns) == ((20 + 20) * MS, 20 * MS)


def test_one_thread_is_not_advised_and_says_why(tmp_path: Path) -> None:
    with torch(tmp_path, [("aten::mm", 1, 10 * n, 10 * n + 9) for n in range(20)]) as recording:
        found = overlap.table(recording)
    assert found.overlaps == () and found.refused == (
        "operators of one thread: each may need the one before it; what they read and write is not recorded",
    )


# ---------------------------------------------------------------------- shown


def test_viewers_show_it(tmp_path: Path) -> None:
    with serial("wait").write(tmp_path / "a.duckdb") as recording:
        report = build_report(recording)
        page = html.render(report, draw(recording))
        document = json.loads(json_viewer.render(report))
        out, short = io.StringIO(), io.StringIO()
        missed.show(overlap.table(recording), out, 100)
        terminal.show(report, short, 80)
    for text in (out.getvalue(), short.getvalue()):
        assert "GPU execution not observed" in text and "interference not known" in text
        assert "with interference" not in text, "there is no such figure"
    assert "process 1" in out.getvalue() and "waits" in out.getvalue()
    assert document["exposure"]["calls"][0]["idle"] == "streams empty"
    assert {"kind", "what", "ideal_ns", "aware_ns", "net_ns", "reason"} <= set(document["overlap"][0])
    assert document["overlap"][0]["priced"] is False
    assert 'aria-label="Exposed host time of process 1"' in page and "not known</td>" in page
