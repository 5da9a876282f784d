"""Perfetto's protobuf: interned and plain names, clocks, tracks, compression, and damage."""

from __future__ import annotations

import contextlib
import random
import zlib
from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler import importers
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers.protobuf import WireError, fields
from traces import annotation, imported, message, packets

BEGIN, END = 1, 2
THREAD, STREAM = 11, 12
TRACKS = (
    message((60, message((1, THREAD), (4, message((1, 10), (2, 21), (5, "main")))))),
    message((60, message((1, STREAM), (2, "stream 7")))),
)
ROWS = """
SELECT w.kind, w.name, w.launch, o.name, w.stream, w.start_ns, w.dur_ns FROM gpu_work w
LEFT JOIN api_call o ON o.call_id = w.operator_id
"""
EXPECTED = [("kernel", "gemm", "cudaLaunchKernel", "aten::mm", 7, 2000, 500)]


def event(at: int, kind: int, track: int, *more: tuple[int, Any], **packet: Any) -> bytes:
    return message((8, at), (10, 1), (11, message((9, kind), (11, track), *more)), *packet.get("also", ()))


def slices() -> list[bytes]:
    """An operator around a launch, and its kernel; names in plain."""
    launched = [(4, annotation("correlation", 5))]
    return [
        event(
            1000, BEGIN, THREAD, (22, "cpu_op"), (23, "aten::mm"), (4, annotation("Input Dims", "[[64, 32], [32, 16]]"))
        ),
        event(1100, BEGIN, THREAD, (22, "cuda_runtime"), (23, "cudaLaunchKernel"), *launched),
        event(1200, END, THREAD),
        event(1300, END, THREAD),
        event(2000, BEGIN, STREAM, (22, "kernel"), (23, "gemm"), *launched, (4, annotation("device", 0))),
        event(2500, END, STREAM),
    ]


def test_slices(tmp_path: Path) -> None:
    path = tmp_path / "a.pftrace"
    path.write_bytes(packets(*TRACKS, *slices()))
    with imported(path) as recording:
        assert recording.rows(ROWS) == EXPECTED
        assert recording.rows("SELECT pid, tid, comm FROM thread") == [(10, 21, "main")]
        assert recording.rows("SELECT dims FROM api_args") == [("[[64,32],[32,16]]",)]
        assert recording.meta()["imported_from"] == "Perfetto protobuf"


def test_compressed_packets(tmp_path: Path) -> None:
    path = tmp_path / "a.pftrace"
    path.write_bytes(packets(*TRACKS, message((50, zlib.compress(packets(*slices()))))))
    with imported(path) as recording:
        assert recording.rows(ROWS) == EXPECTED


def test_interned_names_defaults_and_an_incremental_clock(tmp_path: Path) -> None:
    """As Chrome's and Perfetto's own library write."""
    names = message((1, message((1, 1), (2, "kernel"))), (2, message((1, 3), (2, "gemm"))),
                    (3, message((1, 9), (2, "correlation"))))  # fmt: skip
    clocks = message((1, message((1, 64), (2, 0), (3, 1), (4, 1000))), (1, message((1, 6), (2, 2_000_000))))
    defaults = message((58, 64), (11, message((11, STREAM))))
    path = tmp_path / "a.pftrace"
    path.write_bytes(packets(
        *TRACKS,
        message((10, 1), (13, 1), (6, clocks), (59, defaults), (12, names)),
        message((8, 5), (10, 1), (11, message((9, BEGIN), (10, 3), (3, 1), (4, message((1, 9), (4, -1)))))),
        message((8, 7), (10, 1), (11, message((9, END)))),
    ))  # fmt: skip
    with imported(path) as recording:
        assert recording.rows("SELECT kind, name, correlation, start_ns, end_ns FROM gpu_slice") == [
            ("kernel", "gemm", -1, 2_005_000, 2_012_000)]  # fmt: skip


def test_whole_slices_of_chrome_and_what_does_not_end(tmp_path: Path) -> None:
    legacy = message((2, ord("X")), (3, 250))
    path = tmp_path / "a.pftrace"
    path.write_bytes(
        packets(*TRACKS, event(1000, 0, THREAD, (23, "whole"), (6, legacy)), event(5, BEGIN, THREAD, (23, "b")))
    )
    with imported(path) as recording:
        assert recording.rows("SELECT kind, name, end_ns - start_ns FROM api_call") == [("other", "whole", 250_000)]
        assert recording.rows("SELECT detail FROM event_note") == [("1 slices did not end and were left out",)]


def test_truncated(tmp_path: Path) -> None:
    whole = packets(*TRACKS, *slices())
    path = tmp_path / "a.pftrace"
    for size in (len(whole) - 1, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(RecordingError, match=r"truncated|damaged"):
            importers.read(str(path))


@pytest.mark.parametrize(
    "bad",
    [
        message((50, b"no zlib")),
        message((50, zlib.compress(bytes(4 << 20), 1))),
        b"\xff" * 20,
        message((11, b"\x08")),
        message((11, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")),
        b"\x00\x01",
    ],
    ids=["no zlib", "zlib bomb", "no field", "no value", "endless number", "field 0"],
)
def test_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: bytes) -> None:
    monkeypatch.setattr("flowprof.profiler.importers.perfetto.MAX_INFLATED", 1 << 20)
    path = tmp_path / "a.pftrace"
    path.write_bytes(packets(*TRACKS, *slices(), bad))
    with pytest.raises(RecordingError, match="damaged"):
        importers.read(str(path))


def test_annotations_within_annotations(tmp_path: Path) -> None:
    deep: bytes = message((10, "x"), (4, 1))
    for _ in range(3000):
        deep = message((10, "x"), (11, deep))
    path = tmp_path / "a.pftrace"
    path.write_bytes(packets(*TRACKS, event(1, BEGIN, THREAD, (23, "a"), (4, deep)), event(2, END, THREAD)))
    with imported(path) as recording:
        assert recording.rows("SELECT name FROM api_call") == [("a",)]


def test_noise_never_raises_anything_else(tmp_path: Path) -> None:
    whole = packets(*TRACKS, *slices())
    noise = random.Random(1)
    path = tmp_path / "a.pftrace"
    for _ in range(300):
        bad = bytearray(whole)
        for _ in range(noise.randint(1, 8)):
            bad[noise.randrange(len(bad))] = noise.randrange(256)
        path.write_bytes(bytes(bad))
        with contextlib.suppress(RecordingError):
            importers.read(str(path))
        with contextlib.suppress(WireError):
            list(fields(bytes(bad)))
