"""What users give wrongly: one clear sentence, the next command, the documented exit code, and nothing is lost."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from flowprof.profiler.store import Recording
from toy_engine import Toy, build
from unprivileged import as_nobody

pytestmark = pytest.mark.parallel

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
PYTHON = Path(sys.executable)


def complaint(done: subprocess.CompletedProcess[str], code: int, *words: str, hint: bool = True) -> None:
    """`done` failed with `code` and says `words` in one sentence, with a hint; nothing is on standard output."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("flowprof: ") and len(lines) == 1 + hint, done.stderr
    assert not hint or (lines[1].startswith("hint: ") and len(lines[1]) > len("hint: "))
    for word in words:
        assert word in done.stderr, f"{word!r} is not in {done.stderr!r}"


def refused_arguments(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """argparse's own complaint: usage, then one line."""
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.startswith("usage: ")
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    """A process with a toy engine."""
    program, (library,) = build(tmp_path_factory.mktemp("toy"))
    with Toy(program, library) as running:
        yield running


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process without any engine."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    time.sleep(0.3)
    yield process
    process.communicate()


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder in which `nobody` may write."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o777)
    return tmp_path


VERBS = ["attach", "list-probes"]


# ---------------------------------------------------------------------- processes


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("pid", "code", "words"),
    [
        ("0", 2, "0 is not a process id"),
        ("-1", 2, "-1 is not a process id"),
        ("abc", 2, "'abc' is no list of process ids"),
        ("1.5", 2, "'1.5' is no list of process ids"),
        ("12 34", 2, "'12 34' is no list"),
        ("", 2, "no process is given"),
        (",,", 2, "no process is given"),
        ("4194305", 3, "no process 4194305"),
        ("9" * 30, 3, "no process 999"),
        ("-" + "9" * 30, 2, "is not a process id"),
        ("\x1b[2J", 2, "is no list of process ids"),
    ],
)
def test_process_ids(flowprof, verb: str, pid: str, code: int, words: str) -> None:
    done = flowprof(verb, f"--pid={pid}")
    complaint(done, code, words)
    assert "\x1b" not in done.stderr


def test_no_process_at_all(flowprof) -> None:
    complaint(flowprof("attach"), 2, "no process is given", "flowprof attach PID")
    complaint(flowprof("list-probes"), 2, "no process is given", "flowprof list-probes PID")


def test_a_kernel_thread(flowprof) -> None:
    if not Path("/proc/2/comm").exists() or Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("no kernel threads are seen here (a container)")
    complaint(flowprof("attach", 2), 3, "kernel thread", hint=False)


def test_a_zombie(flowprof) -> None:
    process = subprocess.Popen(["true"])
    time.sleep(0.3)
    complaint(flowprof("attach", process.pid), 3, "has ended", hint=False)
    process.wait()


def test_one_of_two_is_wrong(flowprof, toy: Toy) -> None:
    complaint(flowprof("attach", f"{toy.pid},4194305"), 3, "no process 4194305")


@pytest.mark.bpf
def test_no_engine(flowprof, sleeper) -> None:
    done = flowprof("attach", sleeper.pid, "-o", "x.duckdb")
    complaint(done, 5, str(sleeper.pid), "Looked for ggml", "libc.so", "flowprof run -- CMD")
    complaint(flowprof("list-probes", sleeper.pid), 5, "Looked for ggml")


@pytest.mark.bpf
@pytest.mark.parametrize("verb", VERBS)
def test_the_marker_is_no_engine(flowprof, tmp_path: Path, verb: str) -> None:
    """A library that only speaks of ggml_graph_compute, and a file that is no program at all but mapped as code."""
    (tmp_path / "talk.c").write_text('const char *talk(void) { return "ggml_graph_compute llama_server"; }')
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "talk.so", tmp_path / "talk.c"], check=True)
    (tmp_path / "data").write_bytes(b"ggml_graph_compute".ljust(8192, b"\0"))
    script = (
        f"import ctypes, mmap; ctypes.CDLL({str(tmp_path / 'talk.so')!r})\n"
        f"file = open({str(tmp_path / 'data')!r}, 'rb')\n"
        "held = mmap.mmap(file.fileno(), 8192, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)\n"
        "print(flush=True); input()"
    )
    process = subprocess.Popen([PYTHON, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    try:
        complaint(flowprof(verb, process.pid), 5, "talk.so", "no place to probe", "--debug-dir")
    finally:
        process.communicate(b"\n")


def test_a_32_bit_program(flowprof, tmp_path: Path) -> None:
    code = bytes.fromhex("b81d000000cd80ebf7")  # 1: mov $29, %eax (pause); int $0x80; jmp 1b
    base = 0x08048000
    header = b"\x7fELF\x01\x01\x01" + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, 84 + len(code), 84 + len(code), 5, 4096)
    (tmp_path / "old").write_bytes(header + segment + code)
    (tmp_path / "old").chmod(0o755)
    try:
        process = subprocess.Popen([tmp_path / "old"])
    except OSError:
        pytest.skip("this kernel runs no 32-bit programs")
    try:
        complaint(flowprof("attach", process.pid), 2, "32-bit", hint=False)
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------------- rights


@root
@pytest.mark.parametrize("verb", VERBS)
def test_another_users_process(flowprof, toy: Toy, open_folder: Path, verb: str) -> None:
    done = flowprof(verb, toy.pid, nobody=True)
    complaint(done, 4, "CAP_SYS_PTRACE", "uid 65534", f"sudo flowprof attach {toy.pid}")


@root
def test_not_root(flowprof, open_folder: Path) -> None:
    """One's own process can be looked at; recording needs more, and every lack is named."""
    process = subprocess.Popen(as_nobody("cat"), stdin=subprocess.PIPE)
    time.sleep(0.3)
    try:
        done = flowprof("attach", process.pid, "-o", "x.duckdb", nobody=True)
        complaint(done, 4, "CAP_BPF", "CAP_PERFMON", "uid 65534")
        assert "sudo flowprof" in done.stderr or "--cap-add BPF" in done.stderr
    finally:
        process.communicate()
    done = flowprof("run", "-o", "x.duckdb", "--", "touch", "begun", nobody=True)
    complaint(done, 4, "CAP_BPF")
    assert not list(open_folder.iterdir())


# ---------------------------------------------------------------------- outputs


@pytest.mark.bpf
def test_outputs(flowprof, toy: Toy, tmp_path: Path) -> None:
    existing = tmp_path / "kept.duckdb"
    existing.write_bytes(b"precious")
    attach = ("attach", toy.pid, "-d", "300ms", "-o")
    complaint(flowprof(*attach, existing), 6, "kept.duckdb exists", "-f")
    assert existing.read_bytes() == b"precious"
    complaint(flowprof(*attach, tmp_path / "none/x.duckdb"), 6, "no directory", "mkdir -p")
    complaint(flowprof(*attach, existing / "x.duckdb"), 6, "no directory")
    complaint(flowprof(*attach, tmp_path, "-f"), 6, "not a plain file", "-o FILE")
    complaint(flowprof(*attach, "/dev/null", "-f"), 6, "not a plain file")
    complaint(flowprof(*attach, "x" * 300), 6, "cannot write")
    complaint(flowprof(*attach, os.fsdecode(b"x\xff")), 2, "not UTF-8")
    assert sorted(tmp_path.iterdir()) == [existing]
    assert flowprof(*attach, existing, "-f", "-q").returncode == 0
    with Recording.open(str(existing)) as recording:
        assert recording.meta()["clean_end"] == "yes"


@pytest.mark.bpf
def test_a_file_system_that_is_read_only(flowprof, toy: Toy, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "flowprof-test", tmp_path], check=True)
    try:
        done = flowprof("attach", toy.pid, "-o", tmp_path / "x.duckdb", cwd=Path("/"))
        complaint(done, 4, "cannot write in", "-o FILE")
        done = flowprof("run", "-o", tmp_path / "x.duckdb", "--", "touch", "/tmp/flowprof-must-not-be", cwd=Path("/"))
        complaint(done, 4, "cannot write in")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert not Path("/tmp/flowprof-must-not-be").exists()


@pytest.mark.bpf
def test_a_failure_leaves_the_old_recording(flowprof, toy: Toy, tmp_path: Path) -> None:
    """-f replaces a recording only by another: here bcc cannot be loaded."""
    old = tmp_path / "x.duckdb"
    Recording.create(str(old)).close()
    before = old.read_bytes()
    broken = tmp_path / "broken"
    (broken / "bcc").mkdir(parents=True)
    source = "class BPF:\n    def __init__(self, *a, **k): raise Exception('no bpf')\n"
    (broken / "bcc" / "__init__.py").write_text(source)
    done = flowprof("attach", toy.pid, "-o", old, "-f", "-d", "1s", env={"PYTHONPATH": str(broken)})
    complaint(done, 7, "bcc could not compile", "flowprof doctor")
    assert old.read_bytes() == before and sorted(tmp_path.iterdir()) == [broken, old]


# ---------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-d", "soon"], "'soon' is not a duration"),
        (["-d", "0"], "makes no sense"),
        (["-d", "-5s"], "expected one argument"),
        (["-d", ""], "is not a duration"),
        (["-d", "1e400s"], "is not a duration"),
        (["--levels", "deep"], "deep is no level"),
        (["--levels", ""], "nothing is no level"),
        (["--levels", "op,,core"], "core is no level"),
        (["--counters", "all", "--levels", "op"], "--counters needs the level sched"),
        (["--counters", "some"], "invalid choice"),
        (["--overhead-budget", "little"], "'little' is no percentage"),
        (["--overhead-budget", "-1%"], ""),
        (["--overhead-budget", "101"], "is no percentage"),
        (["--overhead-budget", "nan"], "is no percentage"),
        (["--max-events", "0"], "records nothing"),
        (["--max-events", "many"], "invalid int value"),
        (["--full", "--overhead-budget", "1%"], "not allowed with"),
        (["--no-such-flag"], "unrecognized arguments"),
    ],
)
def test_flags(flowprof, toy: Toy, flags: list[str], words: str) -> None:
    done = flowprof("attach", toy.pid, *flags, "-o", "x.duckdb")
    if done.stderr.startswith("usage:"):
        refused_arguments(done, words)
    else:
        complaint(done, 2, words)


# ---------------------------------------------------------------------- commands


@pytest.mark.bpf
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ([], 2, "no command is given"),
        (["no-such-command"], 3, "no command 'no-such-command'"),
        (["/tmp"], 4, "is a directory"),
        (["/etc/passwd"], 4, "not an executable file"),
    ],
)
def test_commands(flowprof, tmp_path: Path, command: list[str], code: int, words: str) -> None:
    complaint(flowprof("run", "-o", "x.duckdb", "--", *command), code, words)
    assert not list(tmp_path.iterdir())


@pytest.mark.bpf
def test_a_command_that_the_kernel_refuses(flowprof, tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"\x01\x02")
    (tmp_path / "odd").chmod(0o755)
    done = flowprof("run", "-q", "-o", "x.duckdb", "--", "./odd")
    complaint(done, 4, "could not be started", "Exec format error", hint=False)
    assert [path.name for path in tmp_path.iterdir()] == ["odd"]


@root
@pytest.mark.bpf
def test_a_command_that_the_user_may_not_run(flowprof, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\necho no\n")
    (tmp_path / "mine").chmod(0o700)
    sudo = {"SUDO_UID": "65534", "SUDO_GID": "65534"}
    complaint(flowprof("run", "-q", "--", tmp_path / "mine", env=sudo), 4, "Permission denied", hint=False)


# ---------------------------------------------------------------------- recordings


def test_files_that_are_no_recordings(flowprof, tmp_path: Path) -> None:
    whole = tmp_path / "whole.duckdb"
    Recording.create(str(whole)).close()
    content = whole.read_bytes()
    files = {
        "empty": b"",
        "text": b"hello\n" * 1000,
        "cut": content[: len(content) // 2],
        "head": content[:4096],
        "scrambled": content[:8192] + os.urandom(len(content) - 8192),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        done = flowprof("report", name)
        complaint(done, 6, name, hint="hint:" in done.stderr)
    complaint(flowprof("report", "none.duckdb"), 3, "no such file", "flowprof attach")
    complaint(flowprof("report", tmp_path), 6, "not a plain file", hint=False)


def test_other_databases(flowprof, tmp_path: Path) -> None:
    other, newer = tmp_path / "other.duckdb", tmp_path / "newer.duckdb"
    with duckdb.connect(str(other)) as db:
        db.execute("CREATE TABLE meta (key VARCHAR, value VARCHAR)")
    Recording.create(str(newer)).close()
    with duckdb.connect(str(newer)) as db:
        db.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    complaint(flowprof("report", other), 6, "not a flowprof recording", hint=False)
    complaint(flowprof("report", newer), 6, "schema 999", "pip install -U flowprof")


@root
def test_a_recording_of_somebody_else(flowprof, open_folder: Path) -> None:
    path = open_folder / "x.duckdb"
    Recording.create(str(path)).close()
    path.chmod(0o600)
    complaint(flowprof("report", path, nobody=True), 4, "cannot read", "chown")


@pytest.mark.parametrize(
    ("sql", "code", "words"),
    [
        ("SELEKT 1", 2, "the query is not right"),
        ("SELECT nothing FROM graph_exec", 2, "nothing"),
        ("SELECT * FROM nothing", 3, "nothing"),
        ("", 2, ""),
        ("DELETE FROM graph_exec", 2, ""),
        ("SELECT * FROM read_csv('/etc/passwd')", 2, ""),
        ("COPY graph_exec TO '/tmp/flowprof-must-not-be'", 2, ""),
    ],
)
def test_queries(flowprof, tmp_path: Path, sql: str, code: int, words: str) -> None:
    path = tmp_path / "x.duckdb"
    Recording.create(str(path)).close()
    before = path.read_bytes()
    done = flowprof("query", path, sql)
    complaint(done, code, words, hint="hint:" in done.stderr)
    assert path.read_bytes() == before and not Path("/tmp/flowprof-must-not-be").exists()
