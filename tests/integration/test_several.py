"""Several recordings of one target, and several targets of one recording."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from flowprof.examples import load
from recorded import read, recording_of
from toy_engine import Toy
from under_way import busy

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

EXECUTED = "SELECT count(*), count(end_ns) FROM graph_exec"


@pytest.mark.engine
def test_two_flowprofs_on_one_target(shared_server, start, tmp_path: Path) -> None:
    server = shared_server(threads=1)
    both = [start("attach", server.pid, "-o", f"{name}.duckdb").until() for name in ("a", "b")]
    tokens = sum(one.predicted_n for one in load.run(server.url, requests=3, n_predict=32, prompt_tokens=8))
    time.sleep(0.5)
    for one in both:
        one.process.send_signal(signal.SIGINT)
    assert [one.end() for one in both] == [0, 0]
    for name in ("a", "b"):
        assert read(tmp_path / f"{name}.duckdb", EXECUTED) == [(tokens, tokens)]


@pytest.mark.engine
def test_two_targets(shared_server, start, tmp_path: Path) -> None:
    servers = [shared_server(threads=1), shared_server("moe", threads=1)]
    with busy(*servers) as requests:
        recording = start("attach", ",".join(str(s.pid) for s in servers), "-o", "x.duckdb").until()
        requests.more(40)
        recording.process.send_signal(signal.SIGINT)
        assert recording.end() == 0, recording.said
    rows = read(tmp_path / "x.duckdb", "SELECT pid, count(*) FILTER (described) FROM graph_exec "
                "JOIN graph USING (pid, graph_id) GROUP BY pid")  # fmt: skip
    notes = read(tmp_path / "x.duckdb", "SELECT pid, what, detail FROM event_note")
    assert {pid for pid, described in rows if described > 10} == {s.pid for s in servers}, (rows, notes)
    assert all(str(server.pid) in recording.printed for server in servers)


def test_one_of_two_targets_ends(toy_files, tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with (
        Toy(toy_files[0], toy_files[1][0]) as first,
        Toy(toy_files[0], toy_files[1][0]) as second,
        recording_of([first.pid, second.pid], path),
    ):
        first.call(3)
        first.kill()
        time.sleep(1)
        second.call(23)
    assert sorted(read(path, "SELECT pid, count(*) FROM graph_exec GROUP BY pid")) == [(first.pid, 3), (second.pid, 23)]
    assert read(path, "SELECT what, pid FROM event_note WHERE what = 'exit'") == [("exit", first.pid)]
