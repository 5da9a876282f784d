"""Files that expand to far more than they are: each is refused in one sentence or read, within a bounded memory."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.profiler import importers
from flowprof.profiler.errors import RecordingError
from flowprof.profiler.importers import kineto_event, perfetto, trace
from traces import message, nsys, nsys_tables, packets

SLICE = message((8, 1), (11, message((9, 1), (11, 5), (23, "a")))), message((8, 2), (11, message((9, 2), (11, 5))))
LIMIT_MB = 900  # of addresses; Python with numpy and DuckDB takes 250
_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) << 20,) * 2)
from flowprof.profiler.cli import main
sys.exit(main(["import", sys.argv[2], "-f", "-q", "-o", sys.argv[3]]))
"""


def repeated(path: Path, head: bytes, part: bytes, times: int, tail: bytes = b"") -> None:
    """A gzip file of several streams: what repeats is packed once."""
    packed = gzip.compress(part, 6)
    with path.open("wb") as file:
        file.write(gzip.compress(head))
        for _ in range(times):
            file.write(packed)
        file.write(gzip.compress(tail))


def spaces(path: Path) -> None:
    repeated(path, b'{"a": 1', b" " * (8 << 20), 200, b', "traceEvents": []}')


def spaces_among_events(path: Path) -> None:
    repeated(path, b'{"traceEvents": [', b" " * (8 << 20), 200, b"]}")


def brackets(path: Path) -> None:
    repeated(path, b'{"traceEvents": [{"args": [', b"[]," * (3 << 20), 6, b"[]]}]}")


def facts(path: Path) -> None:
    """Three million lists each."""
    with path.open("wb") as file:
        file.write(gzip.compress(b'{"a": 1'))
        for number in range(12):
            file.write(gzip.compress(b', "b%d": [' % number + b"[]," * 1_300_000 + b"[]]", 1))
        file.write(gzip.compress(b"}"))


def begun(path: Path) -> None:
    event = b'{"ph": "B", "ts": 1, "pid": 1, "tid": 1, "name": "a"}, '
    repeated(path, b'{"traceEvents": [', event * 20_000, 150, b'{"ph": "i"}]}')


def begun_among_others(path: Path) -> None:
    """Each one's arguments are a part of four megabytes that were read together."""
    event = b'{"ph": "B", "ts": 1, "pid": 1, "tid": 1, "name": "a", "args": {"Input Dims": [1]}}, '
    repeated(path, b'{"traceEvents": [', event + b'{"ph": "i", "name": "' + b" " * (4 << 20) + b'"}, ', 220, b"{}]}")


def ended(path: Path) -> None:
    """Ends without a beginning, each of another thread."""
    with path.open("wb") as file:
        file.write(gzip.compress(b'{"traceEvents": ['))
        for part in range(6):
            ends = (b'{"ph":"E","ts":1,"pid":%d,"tid":1},' % (part << 20 | number) for number in range(500_000))
            file.write(gzip.compress(b"".join(ends), 1))
        file.write(gzip.compress(b"{}]}"))


def interned(path: Path) -> None:
    """Names of a megabyte, in compressed packets."""
    with path.open("wb") as file:
        file.write(packets(*SLICE))
        for part in range(80):
            names = (message((2, message((1, part * 15 + one), (2, "x" * 1_000_000)))) for one in range(15))
            inside = packets(message((10, 1), (12, b"".join(names))))
            file.write(packets(message((50, zlib.compress(inside, 1)))))


def open_slices(path: Path) -> None:
    body = message((10, 1), (8, 1), (11, message((9, 1), (11, 1), (23, "x" * 60_000))))
    packed = packets(message((50, zlib.compress(packets(body) * 200, 6))))
    path.write_bytes(packets(*SLICE) + packed * 100)


def long_texts(path: Path) -> None:
    """A character beyond the first plane: each text takes four times what it takes in the file."""
    tables = nsys_tables()
    columns, rows = tables["NVTX_EVENTS"]
    text = "x" * 500_000 + "\U0001f600"
    tables["NVTX_EVENTS"] = (columns, [*rows, *((n, n + 1, 59, text, 1, None) for n in range(500))])
    nsys(path, tables)


def too_long_texts(path: Path) -> None:
    tables = nsys_tables()
    columns, rows = tables["NVTX_EVENTS"]
    tables["NVTX_EVENTS"] = (columns, [*rows, *((n, n + 1, 59, "x" * 1_000_000, 1, None) for n in range(5))])
    nsys(path, tables)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (spaces, "more than 64 MB of space"),
        (spaces_among_events, "an event of more than 64 MB"),
        (brackets, "holds neither calls nor GPU work"),
        (facts, "holds neither calls nor GPU work"),
        (begun, "begin and do not end"),
        (begun_among_others, "holds neither calls nor GPU work"),
        (ended, "holds neither calls nor GPU work"),
        (interned, ""),
        (open_slices, ""),
        (long_texts, ""),
        (too_long_texts, "damaged"),
    ],
)
def test_memory_is_bounded(tmp_path: Path, write: Callable[[Path], None], said: str) -> None:
    path = tmp_path / "hostile"
    write(path)
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(LIMIT_MB), str(path), str(tmp_path / "x.duckdb")],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "MemoryError" not in done.stderr
    assert (done.returncode == 0) == (said == ""), done.stderr
    assert said in done.stderr


# ---------------------------------------------------------------------- limits, each made small


def read(path: Path, *bodies: bytes) -> trace.Trace:
    path.write_bytes(packets(*bodies))
    return importers.read(str(path))


def test_what_compressed_packets_expand_to_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowprof.profiler.importers.source.MAX_BYTES", 10 << 20)
    packet = message((50, zlib.compress(packets(message((99, bytes(1 << 20)))))))
    assert read(tmp_path / "a", *SLICE, *[packet] * 9).calls.rows == 1
    with pytest.raises(RecordingError, match="expands"):
        read(tmp_path / "a", *SLICE, *[packet] * 11)


def test_threads_of_a_track_that_is_described_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perfetto, "MAX_PROCESSES", 10)
    tracks = [message((60, message((1, 5), (4, message((1, n), (2, n), (5, "t")))))) for n in range(1, 30)]
    tracks += [message((60, message((1, 5), (3, message((1, n), (6, "p")))))) for n in range(1, 30)]
    found = read(tmp_path / "a", *tracks, *SLICE)
    assert (len(found.threads), len(found.processes)) == (10, 10)


def test_names_that_packets_refer_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perfetto, "MAX_HELD", 100_000)

    def naming(number: int, flags: int = 0) -> bytes:
        return message((10, 1), (13, flags), (12, message((2, message((1, number), (2, "x" * 9000))))))

    again = [naming(1) for _ in range(100)]
    cleared = [naming(number, flags=1) for number in range(100)]
    assert read(tmp_path / "a", *again, *cleared, *SLICE).calls.rows == 1
    with pytest.raises(RecordingError, match="too many sequences"):
        read(tmp_path / "a", *(naming(number) for number in range(100)), *SLICE)


def test_slices_that_do_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perfetto, "MAX_OPEN_BYTES", 10 * kineto_event.EVENT_BYTES)
    assert read(tmp_path / "a", *SLICE * 100).calls.rows == 100
    with pytest.raises(RecordingError, match="do not end"):
        read(tmp_path / "a", *[SLICE[0]] * 11, *SLICE)


def test_an_event_that_is_too_large_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perfetto, "MAX_EVENT", 1000)
    large = message((8, 1), (11, message((9, 1), (11, 6), (23, "a" * 1000))))
    found = read(tmp_path / "a", large, *SLICE)
    assert (found.calls.rows, found.malformed) == (1, 1)


def test_short_names_have_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MAX_NAME_BYTES", 10_000)
    names: trace.Names[str] = trace.Names()
    with pytest.raises(RecordingError, match="different names"):
        for number in range(10_000 // trace.TEXT_BYTES + 1):
            names[str(number)]
