"""`flowprof overlap` of GPU timelines: viewers, JSON, tables of interference, bad commands, and traces at random."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flowprof.profiler import cli
from flowprof.profiler.analyzers import overlap
from flowprof.profiler.report import build_report
from flowprof.profiler.sections.overlap import OverlapTable
from flowprof.viewers import html, missed
from flowprof.viewers import json as json_viewer
from gpu_programs import (
    A100,
    Program,
    found,
    nanoflow,
    synchronised,
)
from traces import imported, kineto, slice_


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
