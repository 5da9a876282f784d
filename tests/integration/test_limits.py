"""What bounds a recording: --max-events, --levels, a ring that is too small, a full disk."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from flowprof.examples import load
from flowprof.profiler.store import Recording
from recorded import read, recording_of
from under_way import answers, busy

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

EXECUTED = "SELECT count(*), count(end_ns) FROM graph_exec"


@pytest.mark.engine
def test_max_events(shared_server, flowprof, tmp_path: Path) -> None:
    server = shared_server(threads=1)
    with busy(server):
        done = flowprof("attach", "-p", server.pid, "-o", "x.duckdb", "--max-events", 100, "--json")
    assert done.returncode == 0 and "--max-events 100 reached" in done.stderr
    assert json.loads(done.stdout)["schema_version"] == 1
    assert read(tmp_path / "x.duckdb", EXECUTED)[0][0] >= 1


@pytest.mark.engine
@pytest.mark.parametrize(
    ("levels", "expected"), [(("token",), {"token"}), (("op",), {"token", "op"}), (("thread",), {"token", "thread"})]
)
def test_levels(shared_server, tmp_path: Path, levels: tuple[str, ...], expected: set[str]) -> None:
    server, path = shared_server(threads=1), tmp_path / "x.duckdb"
    with recording_of([server.pid], path, levels=levels, budget=None):
        load.run(server.url, requests=3, n_predict=24, prompt_tokens=8)
    found = dict(read(path, "SELECT level, count(*) FROM graph_exec GROUP BY level"))
    assert set(found) <= expected and max(expected, key=lambda level: level != "token") in found
    operators, with_barrier = read(path, "SELECT count(*), count(compute_end_ns) FROM op_exec")[0]
    assert bool(operators) == (levels != ("token",))
    assert bool(with_barrier) == (levels == ("thread",))


@pytest.mark.engine
def test_a_ring_that_is_too_small(shared_server, flowprof, tmp_path: Path) -> None:
    server, path = shared_server(threads=1), tmp_path / "x.duckdb"
    with recording_of([server.pid], path, budget=None, ring_shift=7):
        load.run(server.url, requests=2, n_predict=48, prompt_tokens=8)
    (lost,) = read(path, "SELECT sum(events) FROM loss WHERE place = 'ring'")[0]
    assert lost > 100
    assert read(path, "SELECT sum(losses) FROM probe_window")[0][0] == lost
    report = json.loads(flowprof("report", path, "--json").stdout)
    assert str(int(lost)) in json.dumps(report["losses"])
    shown = flowprof("report", path).stdout
    assert re.search(r"losses\s.*ring", shown.replace("\n", " "))


@pytest.mark.engine
def test_the_disk_is_full(shared_server, start, tmp_path: Path) -> None:
    server, disk = shared_server(threads=1), tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "flowprof-test", disk], check=True)
    try:
        with busy(server):
            recording = start("attach", server.pid, "-o", disk / "x.duckdb", "--full", "-d", "40s").until()
            assert recording.end() == 6, recording.said
        assert "cannot be written any more" in recording.said and "hint: " in recording.said
        with Recording.open(str(disk / "x.duckdb")) as left:
            assert left.rows("SELECT count(*) FROM op_exec")[0][0] > 0
        assert start("report", disk / "x.duckdb").end() == 0
    finally:
        subprocess.run(["umount", disk], check=True)
    assert answers(server)
