"""Amdahl's ceilings of timelines: PyTorch's operators on the host, and imported GPU work, by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler import cli
from flowprof.profiler.errors import FlowprofError, NotFoundError, NothingToProfileError, UsageError
from flowprof.profiler.store import Recording
from flowprof.profiler.whatif.change import read_change
from flowprof.profiler.whatif.timeline import Timeline, timeline
from traces import SHARED, Event, imported, kineto, step, work

PID = 4242


def changes(*texts: str) -> list[Any]:
    return [read_change("op", text) for text in texts]


def of_trace(folder: Path, events: list[Event], *texts: str) -> Timeline:
    with imported(kineto(folder / "a.json", events)) as recording:
        return timeline(recording, changes(*texts))


# ---------------------------------------------------------------------- a GPU


def test_kernels_of_an_operator(tmp_path: Path) -> None:
    """Two kernels of 20 µs and a copy of 5 in the 59 from 1006 to 1065; both are addmm's, in linear."""
    for name in ("aten::addmm", "addmm", "LINEAR", "sgemm*"):
        found = of_trace(tmp_path, step(), f"{name}=2x")
        assert (found.what, found.span_ns, found.counts, found.other_ns) == ("GPU", 59_000, (2,), 14_000)
        assert found.shares == (pytest.approx(40 / 59),)
        assert found.end_to_end == pytest.approx(59 / (59 - 20))
    both = of_trace(tmp_path, step(), "linear=4x", "Memcpy*=1000000x")
    assert both.shares == (pytest.approx(40 / 59), pytest.approx(5 / 59)) and both.counts == (2, 1)
    assert both.end_to_end == pytest.approx(59 / (14 + 10), rel=1e-4)


def test_what_runs_at_once_is_on_one_path(tmp_path: Path) -> None:
    """a 0–100 and 150–200, b 50–160 on another stream, c 300–400: however they depend, a is on 150 µs of any chain."""
    events = [work("kernel", "a", 0, 100, 1), work("kernel", "a", 150, 50, 2), work("kernel", "c", 300, 100, 4),
              work("kernel", "b", 50, 110, 3, stream=8, device=1)]  # fmt: skip
    one = of_trace(tmp_path, events, "a=2x")
    assert one.what == "2 GPUs" and one.shares == (150 / 400,) and one.end_to_end == pytest.approx(400 / 325)
    two = of_trace(tmp_path, events, "b=2x", "a=4x")
    assert two.shares == (50 / 400, 150 / 400), "what both cover counts for a, which saves more"
    assert two.end_to_end == pytest.approx(400 / (400 - 25 - 112.5)) and two.other_ns == 100_000
    assert of_trace(tmp_path, events, "a=1e6x", "b=1e6x", "c=1e6x").end_to_end == pytest.approx(4, rel=1e-4)


def test_work_without_an_operator(tmp_path: Path) -> None:
    """Kernels of a graph may be of the chosen operator: only their own names choose them."""
    events = [*step(), work("kernel", "in a graph", 1070, 30, 999)]
    with pytest.raises(NothingToProfileError, match="43 % of the GPU's kernels have no known operator"):
        of_trace(tmp_path, events, "linear=2x")
    assert of_trace(tmp_path, events, "in a*=2x").counts == (1,)
    assert of_trace(tmp_path, [*step(), work("kernel", "in a graph", 1070, 3, 999)], "linear=2x").counts == (2,)


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        (("nothing=2x",), NotFoundError, "there are aten::addmm, sgemm"),
        (("linear=2x", "addmm=2x"), UsageError, "both choose aten::addmm"),
        (("addmm=2x", "sgemm*=2x"), UsageError, "both choose sgemm"),
        (("add*=2x", "*mm=2x"), UsageError, "both choose aten::addmm"),
        (("addmm=0.5x",), UsageError, "not what is lost"),
    ],
)
def test_what_a_gpu_refuses(tmp_path: Path, texts: Sequence[str], error: type[FlowprofError], words: str) -> None:
    with pytest.raises(error) as refused:
        of_trace(tmp_path, step(), *texts)
    assert words in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no traces of others")
def test_a_real_trace(tmp_path: Path) -> None:
    """Qwen on one H100: attention is little of it, and no ceiling is above what its share allows."""
    [trace] = (SHARED / "kineto" / "h100_qwen05b").glob("*.json*")
    with imported(trace, tmp_path / "a.duckdb") as recording:
        found = timeline(recording, changes("attn=1e6x", "mm=2x"))
    attention, products = found.shares
    assert 0 < attention < products < 1
    assert found.end_to_end == pytest.approx(1 / (1 - attention - products / 2), rel=1e-4)


# ---------------------------------------------------------------------- the host


@contextmanager
def of_host(folder: Path, *calls: tuple[str, int, int, int | None], tids: Sequence[int] = (), kind: str = "",
            windows: Sequence[tuple[int, int]] = ((0, 10_000),)) -> Iterator[Recording]:  # fmt: skip
    """Calls (name, start, end, the number of the call around it), of the process's first thread unless told."""
    path = str(folder / "host.duckdb")
    names = ("call_id", "pid", "tid", "kind", "name", "start_ns", "end_ns", "parent_id")
    rows: list[tuple[Any, ...]] = [
        (number, PID, tids[number] if tids else PID, "operator", *call) for number, call in enumerate(calls)
    ]
    if kind:
        rows.append((99, PID, PID, kind, "cudaLaunchKernel", 1, 2, None))
    columns = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    with Recording.create(path, overwrite=True) as recording:
        recording.append("api_call", columns)
        recording.append("probe_window", {
            "window_id": list(range(len(windows))), "level": ["op"] * len(windows), "start_ns": [a for a, _ in windows],
            "end_ns": [b for _, b in windows],
        })  # fmt: skip
        recording.set_meta("clean_end", "true")
    with Recording.open(path) as recording:
        yield recording


NESTED = (("aten::linear", 100, 300, None), ("aten::addmm", 120, 280, 0), ("aten::mm", 150, 250, 1),
          ("aten::mm", 400, 500, None), ("aten::relu", 500, 600, None), *(("aten::mm", at, at + 10, None)
          for at in range(1000, 1100, 20)))  # fmt: skip


def test_operators_of_one_thread(tmp_path: Path) -> None:
    """From 100 to 1090; what is in a chosen call is in its time."""
    with of_host(tmp_path, *NESTED) as recording:
        found = timeline(recording, changes("mm=2x"))
        assert (found.what, found.span_ns, found.counts) == (f"thread {PID}", 990, (7,))
        assert found.shares == (pytest.approx((100 + 100 + 50) / 990),)
        assert found.end_to_end == pytest.approx(990 / (990 - 125))
        assert found.other_ns == 990 - 200 - 100 - 100 - 50 and found.probe_share is None
        whole = timeline(recording, changes("*=2x"))
        assert whole.counts == (8,) and whole.shares == (450 / 990,), "what is in a chosen call counts once"
        with pytest.raises(UsageError, match="both choose aten::addmm"):
            timeline(recording, changes("linear=2x", "addmm=3x"))
        with pytest.raises(NothingToProfileError, match="fewer than 5 calls"):
            timeline(recording, changes("linear=2x"))
        with pytest.raises(NotFoundError, match="bmm"):
            timeline(recording, changes("bmm=2x"))
        with pytest.raises(UsageError, match="ggml's graphs only"):
            timeline(recording, [read_change("block", "ffn=2x")])


def test_only_what_was_observed_counts(tmp_path: Path) -> None:
    windows = ((0, 650), (900, 1045), (1045, 2000))
    with of_host(tmp_path, *NESTED, windows=windows) as recording:
        assert timeline(recording, changes("mm=2x")).span_ns == (600 - 100) + (1050 - 1000) + (1090 - 1060)


def test_threads_that_may_wait_for_each_other(tmp_path: Path) -> None:
    with of_host(tmp_path, *NESTED, tids=[PID] * 4 + [7] + [PID] * 5) as recording, pytest.raises(
        NothingToProfileError, match="2 threads call operators"
    ):  # fmt: skip
        timeline(recording, changes("mm=2x"))


def test_a_gpu_that_nobody_watched(tmp_path: Path) -> None:
    with of_host(tmp_path, *NESTED, kind="runtime") as recording, pytest.raises(
        NothingToProfileError, match="launch work of a GPU"
    ):  # fmt: skip
        timeline(recording, changes("mm=2x"))


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with of_host(tmp_path, *NESTED):
        pass
    path = str(tmp_path / "host.duckdb")
    assert cli.main(["whatif", path, "--op", "mm=2x"]) == 0
    shown = capsys.readouterr().out.replace("\u00a0", " ")
    assert f"thread {PID}: at most 1.14x as fast" in shown and "f = 25.3 % of 990 ns, 7 of them" in shown
    assert cli.main(["whatif", path, "--op", "mm=2x", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["phases"] == [] and told["timeline"]["f"] == pytest.approx(250 / 990)
    assert cli.main(["whatif", path, "--block", "ffn=2x"]) == UsageError.exit_code
