"""How recordings end: the target or flowprof is killed, Ctrl-C, a hang-up; at any moment, and nothing is lost.

Real servers where the engine matters, `toy_engine` where calls have to be counted exactly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import make_plan
from flowprof.profiler.record.recorder import LONGEST_WRITE_S, WRITE_S
from flowprof.profiler.store import Recording
from flowprof.profiler.target import open_target
from recorded import read
from toy_engine import Toy
from under_way import answers, busy

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

EXECUTED = "SELECT count(*), count(end_ns) FROM graph_exec"


def site_bytes(pid: int) -> dict[int, tuple[bytes, bytes]]:
    """Address of every probe site in the target → (the byte in its memory, the byte in the file)."""
    found = {}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for site in make_plan([open_target(pid)], kernel.version()).sites:
            for mapping in site.module.mappings:
                if site.offset is None or not 0 <= site.offset - mapping.offset < mapping.end - mapping.start:
                    continue
                address = mapping.start + site.offset - mapping.offset
                memory.seek(address)
                with open(site.module.open_path, "rb") as file:
                    file.seek(site.offset)
                    found[address] = memory.read(1), file.read(1)
    return found


@pytest.mark.engine
def test_the_target_is_killed(own_server, start, tmp_path: Path) -> None:
    server = own_server(threads=1)
    with busy(server) as requests:
        recording = start("attach", server.pid, "-o", "x.duckdb", "--json").until()
        requests.more()
        os.kill(server.pid, signal.SIGKILL)
        assert recording.end() == 0
    assert "the target ended" in recording.said
    report = json.loads(recording.printed)
    assert sum(phase["tokens"] for phase in report["phases"]) > 10
    meta = dict(read(tmp_path / "x.duckdb", "SELECT key, value FROM meta"))
    assert meta["clean_end"] == "yes" and meta["ended_because"] == "the target ended"
    assert read(tmp_path / "x.duckdb", "SELECT ended_ns > started_ns FROM process") == [(True,)]


@pytest.mark.parametrize("delay_s", [0.6, 1.1])
def test_the_target_is_killed_while_flowprof_starts(toy_files, start, delay_s: float) -> None:
    with Toy(toy_files[0], toy_files[1][0]) as target:
        recording = start("attach", target.pid, "-o", "x.duckdb", "-q")
        time.sleep(delay_s)
        target.kill()
        assert recording.end() in (0, 3), recording.said


@pytest.mark.engine
def test_flowprof_is_killed(shared_server, start, tmp_path: Path) -> None:
    server = shared_server(threads=1)
    with busy(server) as requests:
        recording = start("attach", server.pid, "-o", "x.duckdb", "--levels", "token,graph,op", "--full").until()
        deadline = time.monotonic() + 10
        while not any(now != original for now, original in site_bytes(server.pid).values()):
            assert time.monotonic() < deadline, "no breakpoint is seen in the target: the test proves nothing"
        requests.more(4)
        time.sleep(WRITE_S + 1)
        killed_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        recording.process.kill()
        recording.process.wait()
        deadline = time.monotonic() + 5
        while any(now != original for now, original in site_bytes(server.pid).values()):
            assert time.monotonic() < deadline, "breakpoints are left in the target"
    assert answers(server)
    with Recording.open(str(tmp_path / "x.duckdb")) as left:
        assert "clean_end" not in left.meta()
        (count, last_ns) = left.rows("SELECT count(*), max(start_ns) FROM graph_exec")[0]
        assert left.rows("SELECT count(*) FROM op_exec")[0][0] > 100
    assert count > 50
    assert killed_ns - last_ns < (LONGEST_WRITE_S + 0.5) * 1e9, "more than the last batch is missing"
    again = start("report", "x.duckdb")
    assert again.end() == 0 and "MUL_MAT" in again.printed
    with busy(server):
        assert start("attach", server.pid, "--max-events", "20", "-q", "-f", "-o", "x.duckdb").end() == 0
    assert read(tmp_path / "x.duckdb", EXECUTED)[0][1] > 5


@pytest.mark.engine
@pytest.mark.parametrize("signals", ["INT", "INT INT", "TERM", "INT to the group"])
def test_signals_end_the_recording(shared_server, start, tmp_path: Path, signals: str) -> None:
    server = shared_server(threads=1)
    with busy(server) as requests:
        recording = start("attach", server.pid, "-o", "x.duckdb").until()
        requests.more()
        for name in signals.removesuffix(" to the group").split():
            number = getattr(signal, f"SIG{name}")
            (os.killpg if "group" in signals else os.kill)(recording.process.pid, number)
        assert recording.end() == 0, recording.said
    assert "stopped by the user" in recording.said and "decode" in recording.printed
    assert dict(read(tmp_path / "x.duckdb", "SELECT key, value FROM meta"))["clean_end"] == "yes"
    assert answers(server)


@pytest.mark.parametrize("delay_s", [0.3, 0.8, 1.4])
def test_ctrl_c_while_flowprof_starts(toy_files, start, tmp_path: Path, delay_s: float) -> None:
    with Toy(toy_files[0], toy_files[1][0]) as target:
        recording = start("attach", target.pid, "-o", "x.duckdb", "-q")
        time.sleep(delay_s)
        recording.process.send_signal(signal.SIGINT)
        code = recording.end()
        target.call(3)
    kept = (tmp_path / "x.duckdb").exists()
    # The very first moments belong to Python itself, which dies of the signal.
    assert (code, kept) in [(0, True), (130, False), (-signal.SIGINT, False)], recording.said
    assert not list(tmp_path.glob("*.new"))


def test_nohup(toy_files, start, tmp_path: Path) -> None:
    """A hang-up that was ignored stays ignored, also by the command."""
    entry = f"{sys.executable} -m flowprof.profiler.cli"
    script = f"trap '' HUP; exec {entry} run -o x.duckdb -q -- sh -c 'sleep 1; echo on'"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, cwd=tmp_path, start_new_session=True)
    time.sleep(0.1)
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGHUP)
        time.sleep(0.1)
    assert process.communicate(timeout=60) == (b"on\n", None) and process.returncode == 0
