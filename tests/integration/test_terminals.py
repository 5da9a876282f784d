"""Where flowprof prints: narrow terminals, no Unicode, the C locale, closed streams."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from recorded import read
from toy_engine import Toy
from under_way import busy

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]


@pytest.mark.parametrize("columns", [50, 120])
def test_progress_line(toy_files, tmp_path: Path, columns: int) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with Toy(toy_files[0], toy_files[1][0]) as target:
        command = ["attach", str(target.pid), "-d", "1300ms", "-o", "x.duckdb"]
        process = subprocess.Popen(
            [sys.executable, "-m", "flowprof.profiler.cli", *command],
            stderr=theirs, stdout=subprocess.PIPE, cwd=tmp_path,
        )  # fmt: skip
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while chunk := os.read(ours, 4096):
                seen += chunk
                target.call(10)
        printed, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    lines = [line for line in seen.decode().split("\r\x1b[K") if " s   " in line]
    assert lines and all(len(line.rstrip("\r\n")) < columns for line in lines)
    if columns > 100:
        assert re.search(r"[0-9.]+ s   [1-9][0-9,]* events   0 tokens   0 tokens/s   0 lost", lines[-1])
    assert b"\x1b" not in printed


@pytest.mark.engine
@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}], ids=["ascii"])
def test_plain_terminals(shared_server, start, environment: dict[str, str]) -> None:
    server = shared_server(threads=1)
    with busy(server) as requests:
        recording = start("attach", server.pid, "-o", "x.duckdb", env=environment).until()
        requests.more(30)
        recording.process.send_signal(signal.SIGINT)
        assert recording.end() == 0, recording.said
    assert "MUL_MAT" in recording.printed and "\x1b" not in recording.printed + recording.said


def test_the_c_locale(toy_files, flowprof) -> None:
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with Toy(toy_files[0], toy_files[1][0]) as target:
        done = flowprof("attach", target.pid, "-d", "500ms", "-o", "x.duckdb", env=environment)
    assert done.returncode == 0 and "No graph was executed" in done.stdout, done.stderr


@pytest.mark.parametrize("closed", ["<&- >&-", ">&- 2>&-"])
def test_closed_streams(toy_files, tmp_path: Path, closed: str) -> None:
    """Nothing of what flowprof prints may end in the file that takes the number of a closed stream."""
    with Toy(toy_files[0], toy_files[1][0]) as target:
        command = f"exec {sys.executable} -m flowprof.profiler.cli attach {target.pid} -d 500ms -o x.duckdb {closed}"
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 0
    assert dict(read(tmp_path / "x.duckdb", "SELECT key, value FROM meta"))["clean_end"] == "yes"
