"""Targets that fork, exec, load, stand still, have strange names, or live in namespaces of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from recorded import read, recording_of
from toy_engine import Toy
from under_way import until

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

EXECUTED = "SELECT count(*), count(end_ns) FROM graph_exec"


def test_fork_and_threads(toy_files, tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with Toy(toy_files[0], toy_files[1][0]) as target:
        with recording_of([target.pid], path):
            target.call(23)
            assert os.waitstatus_to_exitcode(target.fork(10)) == 5
            target.threads(100, 2)
        assert target.call(1) == 0
    assert read(path, "SELECT count(*), count(end_ns), count(DISTINCT tid) FROM graph_exec") == [(223, 223, 101)]


def test_load_and_exec(toy_files, tmp_path: Path) -> None:
    """Nothing is lost of what was there before, and what comes is found: each library by its own sites."""
    path, (program, (first, second)) = tmp_path / "x.duckdb", toy_files
    other = tmp_path / "other"
    shutil.copy(program, other)
    with Toy(program, first) as target, recording_of([target.pid], path, look_s=0.02) as run:
        seen = run.recorder.session.processes
        target.call(23)
        target.load(second)
        until(lambda: any(site.module.path == str(second) for site in seen[target.pid].sites))
        time.sleep(0.1)
        target.call(7)
        target.exec(other)
        until(lambda: seen[target.pid].target.exe == str(other))
        time.sleep(0.1)
        target.call(11)
    assert read(path, EXECUTED) == [(41, 41)]
    hits = read(path, "SELECT regexp_extract(path, '[^/]*$'), hits FROM probe_site JOIN module USING (module_id) "
                "WHERE hits > 0 ORDER BY site_id")  # fmt: skip
    assert hits == [(first.name, 34), (first.name, 34), (second.name, 7), (second.name, 7)]
    notes = [what for (what,) in read(path, "SELECT what FROM event_note ORDER BY at_ns")]
    assert notes[:2] == ["load", "exec"]
    assert read(
        path, "SELECT count(*), count(DISTINCT site_id) FROM probe_site WHERE hits > 0 AND level <> 'sched'"
    ) == [(4, 4)]
    assert read(path, "SELECT count(*), count(DISTINCT module_id) FROM module") == [(4, 4)]
    assert read(path, "SELECT exe FROM process") == [(str(other),)]


LAUNCHES = r"""
__attribute__((noinline)) int cudaLaunchKernel(void *kernel) { return kernel ? 0 : 1; }
int ggml_graph_compute(char *graph, void *plan) { return cudaLaunchKernel(graph) + !plan; }
"""


def test_an_engine_that_comes_late(toy_files, tmp_path: Path) -> None:
    """Its programs are compiled when its library appears, and its events come by the rings that are there."""
    path, (program, (first, _)) = tmp_path / "x.duckdb", toy_files
    late = tmp_path / "liblate.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-xc", "-", "-o", late], input=LAUNCHES.encode(), check=True)
    options = {"levels": ("token", "graph", "op"), "budget": None, "look_s": 0.02}
    with Toy(program, first) as target, recording_of([target.pid], path, **options) as run:
        session = run.recorder.session
        target.call(23)
        target.load(late)
        until(lambda: any(site.engine == "cuda" for site in session.sites))
        until(lambda: session.windows[-1].level == "op")
        target.call(7)
    assert read(path, EXECUTED) == [(30, 30)]
    assert read(path, "SELECT name, count(*) FROM api_call GROUP BY ALL") == [("cudaLaunchKernel", 7)]
    assert {place for (place,) in read(path, "SELECT place FROM loss")} <= {"undescribed_graph"}


def test_a_stopped_target(toy_files, flowprof) -> None:
    with Toy(toy_files[0], toy_files[1][0]) as target:
        os.kill(target.pid, signal.SIGSTOP)
        try:
            done = flowprof("attach", target.pid, "-d", "500ms", "-o", "x.duckdb", timeout=30)
            assert done.returncode == 0 and "No graph was executed" in done.stdout
        finally:
            os.kill(target.pid, signal.SIGCONT)
        assert target.call(2) == 0


def test_names_of_any_bytes(toy_files, flowprof, tmp_path: Path) -> None:
    """Paths, thread names and arguments come from the target: escapes, newlines, no UTF-8, `(deleted)`."""
    folder = tmp_path / os.fsdecode(b"x\xff\n\x1b[2J<b>")
    folder.mkdir()
    program, library = folder / "toy (deleted)", folder / os.fsdecode(b"lib\xfe.so")
    shutil.copy(toy_files[0], program)
    shutil.copy(toy_files[1][0], library)
    with Toy(program, library) as target:
        target.tell(b"name \x1b]0;x\x07\xff")
        timer = threading.Timer(6, target.call, (23,))  # the probes are in place by then, and stay
        timer.start()
        done = flowprof("attach", target.pid, "-d", "8s", "-o", "x.duckdb")
        timer.join()
        listed = flowprof("list-probes", target.pid)
        as_json = flowprof("list-probes", target.pid, "--format", "json")
    assert done.returncode == listed.returncode == as_json.returncode == 0, done.stderr + listed.stderr
    assert "\x1b" not in done.stdout + listed.stdout and "ggml_graph_compute" in listed.stdout
    assert any("lib\\xfe.so" in site["module"] for site in json.loads(as_json.stdout))
    page = flowprof("report", "x.duckdb", "--html", "x.html")
    assert page.returncode == 0 and "\\n<b>" not in (tmp_path / "x.html").read_text()
    assert read(tmp_path / "x.duckdb", EXECUTED) == [(23, 23)]


@pytest.mark.parametrize("deleted", [False, True], ids=["there", "deleted"])
def test_a_target_in_namespaces_of_its_own(toy_files, tmp_path: Path, deleted: bool) -> None:
    """Its library lies on a file system that only it has mounted; its own number of itself is another one."""
    private = tmp_path / "private"
    private.mkdir()
    script = f'mount -t tmpfs tmpfs {private} && cp {toy_files[0]} {toy_files[1][0]} {private} && exec "$0" "$1"'
    inside = private / toy_files[1][0].name
    wrapper = ("unshare", "-mpf", "--kill-child", "sh", "-c", script)
    with Toy(private / "toy", inside, wrapper) as outer:
        (pid,) = [int(p) for p in Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()]
        assert not inside.exists(), "the host sees it: the test proves nothing"
        if deleted:
            Path(f"/proc/{pid}/root{inside}").unlink()
        path = tmp_path / "x.duckdb"
        with recording_of([pid], path) as run:
            opened = {site.module.open_path for site in run.plan.sites}
            outer.call(23)
        assert all(("map_files" if deleted else f"/proc/{pid}/root/") in name for name in opened)
    assert read(path, EXECUTED) == [(23, 23)]
    assert read(path, "SELECT DISTINCT path FROM module WHERE path LIKE '%.so'") == [(str(inside),)]
