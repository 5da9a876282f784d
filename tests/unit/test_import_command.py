"""`flowprof import`: its manners, what it leaves behind, and what hostile files get from it."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.profiler import importers
from flowprof.profiler.cli import main
from flowprof.profiler.importers import trace as traces_module
from flowprof.profiler.store import Recording
from peak_memory import peak_mb
from traces import kineto, nsys, nsys_tables, slice_, step, text

ENTRY = [sys.executable, "-m", "flowprof.profiler.cli"]
MEMORY_MB = 1000  # for a file of 500 MB; the largest one here has 300


def test_every_verb_reads_what_was_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, recording = kineto(tmp_path / "trace.json.gz"), tmp_path / "a.duckdb"
    assert main(["import", str(source), "-o", str(recording)]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "7 calls and 3 GPU slices" in said.err and f"flowprof report {recording}" in said.err
    assert main(["report", str(recording)]) == 0
    assert "GPU work" in capsys.readouterr().out
    assert main(["report", str(recording), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recording"]["imported_from"] == "Kineto JSON"
    assert main(["report", str(recording), "--html", str(tmp_path / "a.html")]) == 0
    assert main(["query", str(recording), "SELECT count(*) AS n FROM gpu_work", "--format", "csv"]) == 0
    assert capsys.readouterr().out == "n\n3\n"


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    kineto(tmp_path / "trace.json")
    assert main(["import", "trace.json", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"schema_version": 1, "format": "Kineto JSON", "recording": "trace.duckdb", "calls": 7, "slices": 3,
                     "malformed": 0}  # fmt: skip
    assert main(["import", "trace.json"]) == 6
    assert "exists" in capsys.readouterr().err
    assert main(["import", "trace.json", "-f", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_formats_are_told_by_content(tmp_path: Path) -> None:
    for name, source in (
        ("a.sqlite", kineto(tmp_path / "a.sqlite")),
        ("b.json", nsys(tmp_path / "b.json", nsys_tables())),
    ):
        assert (
            importers.read(str(source)).format == {"a.sqlite": "Kineto JSON", "b.json": "Nsight Systems SQLite"}[name]
        )


def bare(path: Path) -> Path:
    return text(path, json.dumps(step()[:3])[:-30])


HOSTILE: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "none": (lambda path: None, 3, "no such file"),
    "folder": (lambda path: path.mkdir(), 6, "not a plain file"),
    "unreadable": (lambda path: path.write_text('{"traceEvents": [{"ph": "X", "ts": "x"}]}'), 6, "1 events could not"),
    "empty": (lambda path: path.write_bytes(b""), 6, "no format"),
    "text": (lambda path: path.write_text("hello"), 6, "no format"),
    "no size": (lambda path: path.write_bytes(b"\n" + b"\xff" * 20), 6, "no format"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 99), 6, "no format"),
    "truncated": (bare, 6, "truncated"),
    "no events": (lambda path: path.write_text('{"a": 1}'), 6, "neither calls nor GPU work"),
    "recording": (lambda path: Recording.create(str(path)).close(), 6, "no format"),
    "bomb": (lambda path: path.write_bytes(gzip.compress(b'{"traceEvents": [' + b" " * (99 << 20), 1)), 6, "64 MB"),
    "deep": (lambda path: path.write_text('{"traceEvents": [' + '{"args":' * 500_000), 6, "truncated"),
    "deep fact": (lambda path: path.write_text('{"a": ' + "[" * 500_000 + "]" * 500_000 + "}"), 6, "neither calls"),
    "endless key": (lambda path: path.write_text('{"' + "a" * 200_000), 6, "truncated"),
    "sqlite.gz": (lambda path: path.write_bytes(gzip.compress(nsys(path, nsys_tables()).read_bytes())), 6, "gunzip"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_get_one_sentence(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, code, words = HOSTILE[case]
    source, recording = tmp_path / "hostile.json", tmp_path / "a.duckdb"
    make(source)
    assert main(["import", str(source), "-o", str(recording)]) == code
    said = capsys.readouterr().err
    assert said.startswith("flowprof: ") and words in said and "internal error" not in said
    assert [path.name for path in tmp_path.iterdir() if path != source] == [], "nothing is left of a failed import"


def test_a_failed_import_leaves_the_older_recording(tmp_path: Path) -> None:
    recording = tmp_path / "a.duckdb"
    assert main(["import", str(kineto(tmp_path / "good.json")), "-o", str(recording), "-q"]) == 0
    before = recording.read_bytes()
    assert main(["import", str(bare(tmp_path / "bad.json")), "-o", str(recording), "-f"]) == 6
    assert recording.read_bytes() == before


def test_the_trace_itself_is_never_overwritten(tmp_path: Path) -> None:
    source = kineto(tmp_path / "a.json")
    before = source.read_bytes()
    assert main(["import", str(source), "-o", str(source), "-f"]) == 2
    assert source.read_bytes() == before


def test_too_many_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(traces_module, "MAX_ROWS", 5)
    assert main(["import", str(kineto(tmp_path / "a.json")), "-o", str(tmp_path / "a.duckdb")]) == 6
    assert "more than 5 slices" in capsys.readouterr().err


def test_too_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(traces_module, "MAX_NAME_BYTES", 1 << 20)
    path = kineto(tmp_path / "a.json", [slice_("cpu_op", f"{n}" * 1000, n, 1) for n in range(900)])
    assert main(["import", str(path), "-o", str(tmp_path / "a.duckdb")]) == 6
    assert "different names" in capsys.readouterr().err


def test_too_many_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = kineto(tmp_path / "a.json", [slice_("kernel", "k", n, 1, device=n) for n in range(1100)])
    assert main(["import", str(path), "-o", str(tmp_path / "a.duckdb")]) == 6
    assert "more than 1024 GPUs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it is written: nothing is left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flowprof.profiler.importers.writing.parents", interrupt)
    source = kineto(tmp_path / "a.json")
    assert main(["import", str(source), "-o", str(tmp_path / "a.duckdb")]) == 130
    assert list(tmp_path.iterdir()) == [source]


def test_memory_of_a_large_file(tmp_path: Path) -> None:
    """300 MB, in a process of its own: far below the 1 GB that 500 MB may take."""
    source, recording = tmp_path / "large.json", tmp_path / "large.duckdb"
    slices = 0
    with source.open("w") as file:
        file.write('{"schemaVersion": 1, "traceEvents": [\n')
        names = ["k" * 200 + "{lambda()#1}, std::array<char*, 2ul>" + str(n) for n in range(300)]
        while file.tell() < 300 << 20:
            for _ in range(5000):
                at, n = slices * 10, slices % len(names)
                file.write(
                    f'{{"ph": "X", "cat": "cpu_op", "name": "aten::op{n}", "pid": 1, "tid": {n % 7}, "ts": {at}.5, '
                    f'"dur": 8, "args": {{"External id": {slices}, "Input Dims": [[{n}, 8], []], "Input type": '
                    f'["float", "Scalar"]}}}},\n{{"ph": "X", "cat": "kernel", "name": "{names[n]}", "pid": 0, '
                    f'"tid": 7, "ts": {at + 4}, "dur": 5.125, "args": {{"device": 0, "stream": 7, "correlation": '
                    f'{slices}, "External id": {slices}, "grid": [1, 2, 3]}}}},\n'
                )
                slices += 1
        file.write('{"ph": "i"}]}\n')
    peak = peak_mb("import", str(source), "-o", str(recording), "-q")
    with Recording.open(str(recording)) as opened:
        assert opened.rows("SELECT (SELECT count(*) FROM api_call), (SELECT count(*) FROM gpu_slice)") == [
            (slices, slices)
        ]
        assert opened.rows("SELECT count(*), min(dims) FROM api_args") == [(300, "[[0,8],[]]")]
    assert peak < MEMORY_MB
    print(f"{slices} operators and kernels each: {peak:.0f} MB")
