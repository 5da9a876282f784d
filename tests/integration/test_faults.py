"""What goes wrong while recording: targets and flowprofs that die, fork, exec and load; full disks; impatient users.

Real servers where the engine matters, `toy_engine` where calls have to be counted exactly.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flowprof.examples import load, synthetic_model
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import make_plan
from flowprof.profiler.record.recorder import LONGEST_WRITE_S, WRITE_S
from flowprof.profiler.store import Recording
from flowprof.profiler.target import open_target
from recorded import read, recording_of
from toy_engine import Toy, build

pytestmark = [pytest.mark.bpf, pytest.mark.parallel]

IN_PLACE = "recording; Ctrl-C ends it"
EXECUTED = "SELECT count(*), count(end_ns) FROM graph_exec"


class Flowprof:
    """The command under way, its standard error read as it comes."""

    def __init__(self, *arguments: object, cwd: Path, env: dict[str, str] | None = None, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flowprof.profiler.cli", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env={**os.environ, **(env or {})},
            start_new_session=True, preexec_fn=_mind_ctrl_c, **options,
        )  # fmt: skip
        self.said, self.printed = "", ""
        self._readers = [threading.Thread(target=self._hear), threading.Thread(target=self._read)]
        for reader in self._readers:
            reader.start()

    def _hear(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.printed = self.process.stdout.read()

    def until(self, words: str = IN_PLACE, seconds: float = 60) -> Flowprof:
        """Wait until it has said `words` on standard error."""
        deadline = time.monotonic() + seconds
        while words not in self.said:
            assert time.monotonic() < deadline and self.process.poll() is None, f"no {words!r} in {self.said!r}"
            time.sleep(0.02)
        return self

    def end(self, seconds: float = 60) -> int:
        """Its exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(10)
        assert "Traceback" not in self.said and "internal error" not in self.said, self.said
        return code


def _mind_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test runner in the background ignores it


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Flowprof]]:
    """`start("attach", pid, …)`: a Flowprof; what still runs after the test is killed."""
    running: list[Flowprof] = []

    def begin(*arguments: object, **options: Any) -> Flowprof:
        running.append(Flowprof(*arguments, cwd=options.pop("cwd", tmp_path), **options))
        return running[-1]

    yield begin
    for one in running:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        one.process.wait()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The toy's program and two libraries."""
    return build(tmp_path_factory.mktemp("toy"), 2)


class Load:
    """Requests that follow one another. `more(n)` waits until n more have been answered: hosts differ in speed."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.answered = 0

    def drive(self, server: RunningServer) -> None:
        with contextlib.suppress(OSError, ValueError):  # a server that is gone; an answer cut short
            while not self.stop.is_set():
                load.request(server.url, n_predict=24, prompt_tokens=8)
                self.answered += 1

    def more(self, requests: int = 2, seconds: float = 60) -> None:
        wanted = self.answered + requests
        _until(lambda: self.answered >= wanted, seconds)


@contextlib.contextmanager
def busy(*servers: RunningServer) -> Iterator[Load]:
    """The servers generate while the block runs; their end is no error."""
    driven = Load()
    drivers = [threading.Thread(target=driven.drive, args=(server,)) for server in servers]
    for driver in drivers:
        driver.start()
    try:
        yield driven
    finally:
        driven.stop.set()
        for driver in drivers:
            driver.join(60)


def answers(server: RunningServer) -> bool:
    return load.request(server.url, n_predict=4, prompt_tokens=4).predicted_n == 4


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


# ---------------------------------------------------------------------- ends


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
def test_the_target_is_killed_while_flowprof_starts(toy, start, delay_s: float) -> None:
    with Toy(toy[0], toy[1][0]) as target:
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


# ---------------------------------------------------------------------- Ctrl-C


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
def test_ctrl_c_while_flowprof_starts(toy, start, tmp_path: Path, delay_s: float) -> None:
    with Toy(toy[0], toy[1][0]) as target:
        recording = start("attach", target.pid, "-o", "x.duckdb", "-q")
        time.sleep(delay_s)
        recording.process.send_signal(signal.SIGINT)
        code = recording.end()
        target.call(3)
    kept = (tmp_path / "x.duckdb").exists()
    # The very first moments belong to Python itself, which dies of the signal.
    assert (code, kept) in [(0, True), (130, False), (-signal.SIGINT, False)], recording.said
    assert not list(tmp_path.glob("*.new"))


def test_nohup(toy, start, tmp_path: Path) -> None:
    """A hang-up that was ignored stays ignored, also by the command."""
    entry = f"{sys.executable} -m flowprof.profiler.cli"
    script = f"trap '' HUP; exec {entry} run -o x.duckdb -q -- sh -c 'sleep 1; echo on'"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, cwd=tmp_path, start_new_session=True)
    time.sleep(0.1)
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGHUP)
        time.sleep(0.1)
    assert process.communicate(timeout=60) == (b"on\n", None) and process.returncode == 0


# ---------------------------------------------------------------------- limits


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


# ---------------------------------------------------------------------- several


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


def test_one_of_two_targets_ends(toy, tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with (
        Toy(toy[0], toy[1][0]) as first,
        Toy(toy[0], toy[1][0]) as second,
        recording_of([first.pid, second.pid], path),
    ):
        first.call(3)
        first.kill()
        time.sleep(1)
        second.call(23)
    assert sorted(read(path, "SELECT pid, count(*) FROM graph_exec GROUP BY pid")) == [(first.pid, 3), (second.pid, 23)]
    assert read(path, "SELECT what, pid FROM event_note WHERE what = 'exit'") == [("exit", first.pid)]


# ---------------------------------------------------------------------- targets that change


def test_fork_and_threads(toy, tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with Toy(toy[0], toy[1][0]) as target:
        with recording_of([target.pid], path):
            target.call(23)
            assert os.waitstatus_to_exitcode(target.fork(10)) == 5
            target.threads(100, 2)
        assert target.call(1) == 0
    assert read(path, "SELECT count(*), count(end_ns), count(DISTINCT tid) FROM graph_exec") == [(223, 223, 101)]


def test_load_and_exec(toy, tmp_path: Path) -> None:
    """Nothing is lost of what was there before, and what comes is found: each library by its own sites."""
    path, (program, (first, second)) = tmp_path / "x.duckdb", toy
    other = tmp_path / "other"
    shutil.copy(program, other)
    with Toy(program, first) as target, recording_of([target.pid], path, look_s=0.02) as run:
        seen = run.recorder.session.processes
        target.call(23)
        target.load(second)
        _until(lambda: any(site.module.path == str(second) for site in seen[target.pid].sites))
        time.sleep(0.1)
        target.call(7)
        target.exec(other)
        _until(lambda: seen[target.pid].target.exe == str(other))
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


def test_an_engine_that_comes_late(toy, tmp_path: Path) -> None:
    """Its programs are compiled when its library appears, and its events come by the rings that are there."""
    path, (program, (first, _)) = tmp_path / "x.duckdb", toy
    late = tmp_path / "liblate.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-xc", "-", "-o", late], input=LAUNCHES.encode(), check=True)
    options = {"levels": ("token", "graph", "op"), "budget": None, "look_s": 0.02}
    with Toy(program, first) as target, recording_of([target.pid], path, **options) as run:
        session = run.recorder.session
        target.call(23)
        target.load(late)
        _until(lambda: any(site.engine == "cuda" for site in session.sites))
        _until(lambda: session.windows[-1].level == "op")
        target.call(7)
    assert read(path, EXECUTED) == [(30, 30)]
    assert read(path, "SELECT name, count(*) FROM api_call GROUP BY ALL") == [("cudaLaunchKernel", 7)]
    assert {place for (place,) in read(path, "SELECT place FROM loss")} <= {"undescribed_graph"}


def _until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stopped_target(toy, flowprof) -> None:
    with Toy(toy[0], toy[1][0]) as target:
        os.kill(target.pid, signal.SIGSTOP)
        try:
            done = flowprof("attach", target.pid, "-d", "500ms", "-o", "x.duckdb", timeout=30)
            assert done.returncode == 0 and "No graph was executed" in done.stdout
        finally:
            os.kill(target.pid, signal.SIGCONT)
        assert target.call(2) == 0


def test_names_of_any_bytes(toy, flowprof, tmp_path: Path) -> None:
    """Paths, thread names and arguments come from the target: escapes, newlines, no UTF-8, `(deleted)`."""
    folder = tmp_path / os.fsdecode(b"x\xff\n\x1b[2J<b>")
    folder.mkdir()
    program, library = folder / "toy (deleted)", folder / os.fsdecode(b"lib\xfe.so")
    shutil.copy(toy[0], program)
    shutil.copy(toy[1][0], library)
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


# ---------------------------------------------------------------------- containers


@pytest.mark.parametrize("deleted", [False, True], ids=["there", "deleted"])
def test_a_target_in_namespaces_of_its_own(toy, tmp_path: Path, deleted: bool) -> None:
    """Its library lies on a file system that only it has mounted; its own number of itself is another one."""
    private = tmp_path / "private"
    private.mkdir()
    script = f'mount -t tmpfs tmpfs {private} && cp {toy[0]} {toy[1][0]} {private} && exec "$0" "$1"'
    inside = private / toy[1][0].name
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


# ---------------------------------------------------------------------- terminals


@pytest.mark.parametrize("columns", [50, 120])
def test_progress_line(toy, tmp_path: Path, columns: int) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with Toy(toy[0], toy[1][0]) as target:
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


def test_the_c_locale(toy, flowprof) -> None:
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with Toy(toy[0], toy[1][0]) as target:
        done = flowprof("attach", target.pid, "-d", "500ms", "-o", "x.duckdb", env=environment)
    assert done.returncode == 0 and "No graph was executed" in done.stdout, done.stderr


@pytest.mark.parametrize("closed", ["<&- >&-", ">&- 2>&-"])
def test_closed_streams(toy, tmp_path: Path, closed: str) -> None:
    """Nothing of what flowprof prints may end in the file that takes the number of a closed stream."""
    with Toy(toy[0], toy[1][0]) as target:
        command = f"exec {sys.executable} -m flowprof.profiler.cli attach {target.pid} -d 500ms -o x.duckdb {closed}"
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 0
    assert dict(read(tmp_path / "x.duckdb", "SELECT key, value FROM meta"))["clean_end"] == "yes"


# ---------------------------------------------------------------------- run


def test_run_a_script_that_becomes_the_program(toy, flowprof, tmp_path: Path) -> None:
    script = tmp_path / "start.sh"
    script.write_text(f'#!/bin/sh\nsleep 0.2\nexec {toy[0]} "$1"\n')
    script.chmod(0o755)
    talk = tmp_path / "talk"
    talk.write_text("call 23\nexit 7\n")
    with open(talk) as words:
        done = flowprof("run", "-o", "x.duckdb", "--json", "--", script, toy[1][0], stdin=words)
    assert done.returncode == 7, done.stderr
    # A script of 23 calls is over before anybody can look: the program is found, or the recording is empty, and ends.
    assert json.loads(done.stdout[done.stdout.index("{") :])["schema_version"] == 1


@pytest.mark.engine
def test_run_python_that_loads_the_engine_late(flowprof, tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text(
        "import sys, time, subprocess, urllib.request, json\n"
        "time.sleep(0.3)\n"
        "from flowprof.examples import load\n"
        "import xllamacpp\n"
        "params = xllamacpp.CommonParams()\n"
        "params.model.path, params.hostnames, params.port = sys.argv[1], ['127.0.0.1'], 0\n"
        "params.cpuparams_batch.n_threads = 1\n"
        "params.cpuparams.n_threads, params.n_gpu_layers, params.n_ctx, params.n_parallel = 1, 0, 512, 1\n"
        "params.fit_params = params.ui = False\n"
        "params.warmup = True\n"
        "server = xllamacpp.Server(params)\n"
        "for _ in range(1000):\n"
        "    try:\n"
        "        urllib.request.urlopen(server.listening_address + '/health')\n"
        "        break\n"
        "    except OSError:\n"
        "        time.sleep(0.02)\n"
        "time.sleep(1)\n"
        "answers = load.run(server.listening_address, requests=3, n_predict=32, prompt_tokens=8)\n"
        "print(sum(a.predicted_n for a in answers), flush=True)\n"
        "import os; os._exit(3)\n"
    )
    model = synthetic_model.write("tiny")
    done = flowprof("run", "-o", "x.duckdb", "-q", "--", sys.executable, script, model)
    assert done.returncode == 3, done.stderr
    sql = "SELECT sum(outputs), count(*) FROM graph_exec JOIN graph USING (graph_id)"
    outputs, count = read(tmp_path / "x.duckdb", sql)[0]
    assert int(done.stdout) == 96 and count >= 96, "an execution is missing"
    assert outputs > 48, "graphs are not described"  # those that run before the first has been read stay undescribed
    meta = dict(read(tmp_path / "x.duckdb", "SELECT key, value FROM meta"))
    assert "op: operator hook" in meta["rung"]
    assert "late.py" in read(tmp_path / "x.duckdb", "SELECT cmdline FROM process")[0][0]


@pytest.mark.parametrize(
    ("command", "code"), [(["true"], 0), (["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137)]
)
def test_run_has_the_exit_code_of_the_command(flowprof, tmp_path: Path, command: list[str], code: int) -> None:
    done = flowprof("run", "-o", "x.duckdb", "--", *command)
    assert done.returncode == code, done.stderr
    assert "No graph was executed" in done.stdout and "the target ended" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_as_the_invoking_user(flowprof, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    done = flowprof(
        "run", "-o", "x.duckdb", "-q", "--", "sh", "-c", "id -u; id -g; id -G; echo $USER",
        env={"SUDO_UID": "65534", "SUDO_GID": "65534"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["65534", "65534", "65534", "nobody"]
    owner = (tmp_path / "x.duckdb").stat()
    assert (owner.st_uid, owner.st_gid) == (65534, 65534)
    assert read(tmp_path / "x.duckdb", "SELECT uid FROM process") == [(65534,)]


@pytest.mark.parametrize("how", ["INT to the group", "TERM to flowprof", "HUP to flowprof"])
def test_run_is_ended_with_its_command(start, tmp_path: Path, how: str) -> None:
    name = how.split()[0]
    script = f"trap 'echo got {name}; exit 9' {name}; echo $$; while :; do sleep 0.1; done"
    recording = start("run", "-o", "x.duckdb", "--", "sh", "-c", script).until()
    time.sleep(0.5)
    number = getattr(signal, f"SIG{name}")
    (os.killpg if "group" in how else os.kill)(recording.process.pid, number)
    assert recording.end() == 9, recording.said
    assert f"got {name}" in recording.printed
    assert dict(read(tmp_path / "x.duckdb", "SELECT key, value FROM meta"))["clean_end"] == "yes"


def test_run_is_killed(start, tmp_path: Path) -> None:
    """The command goes on when flowprof dies."""
    recording = start("run", "-o", "x.duckdb", "--", "sh", "-c", "echo $$ > pid; sleep 1.5; echo > survived").until()
    time.sleep(0.3)
    recording.process.kill()
    _until((tmp_path / "survived").exists)


def test_run_on_a_full_disk(start, tmp_path: Path) -> None:
    """Where nothing can be recorded the command does not begin."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "flowprof-test", disk], check=True)
    try:
        recording = start("run", "-o", disk / "x.duckdb", "--", "touch", "begun")
        assert recording.end() == 6, recording.said
        assert not list(disk.iterdir()) and not (tmp_path / "begun").exists()
    finally:
        subprocess.run(["umount", disk], check=True)
