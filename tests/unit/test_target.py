"""Processes as /proc shows them: what is no target, names of any bytes, which file a module really is."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from flowprof.profiler.binaries.markers import contains
from flowprof.profiler.errors import FlowprofError, NotFoundError, UsageError
from flowprof.profiler.target import (
    code_size,
    describe_modules,
    executable_lines,
    has_ended,
    modules_of,
    open_target,
    shown,
    threads_of,
)


def refused(pid: int) -> FlowprofError:
    with pytest.raises(FlowprofError) as caught:
        open_target(pid)
    assert len(caught.value.message.splitlines()) == 1
    return caught.value


@pytest.fixture
def sleeper():
    """A process that waits for the end of its input."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    _hear(process)
    yield process
    process.communicate()


def _hear(process: subprocess.Popen[bytes]) -> None:
    """Wait until `cat` answers: only then is it itself, with all its libraries."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"x\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"x\n"


def _until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ourselves() -> None:
    target = open_target(os.getpid())
    assert (target.pid, target.ppid, target.uid) == (os.getpid(), os.getppid(), os.getuid())
    assert Path(target.exe).samefile(sys.executable)
    assert 0 <= time.time() - target.started_at < 24 * 3600
    assert any("libc" in module.path for module in target.modules)
    for module in target.modules:
        assert os.stat(module.open_path).st_ino == module.inode
        assert all(mapping.start < mapping.end for mapping in module.mappings)


@pytest.mark.parametrize("pid", [0, -1, -(2**70)])
def test_numbers_that_are_none(pid: int) -> None:
    assert isinstance(refused(pid), UsageError)


@pytest.mark.parametrize("pid", [2**22 + 1, 2**31, 2**64, 10**30])
def test_numbers_of_nobody(pid: int) -> None:
    error = refused(pid)
    assert isinstance(error, NotFoundError) and str(pid) in error.message and error.hint


def test_a_process_that_has_ended() -> None:
    process = subprocess.Popen(["true"])
    _until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split(") ")[1][0] == "Z")
    error = refused(process.pid)
    assert isinstance(error, NotFoundError) and "has ended" in error.message
    process.wait()
    assert "There is no process" in refused(process.pid).message


def test_a_thread_is_no_process() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        error = refused(thread.native_id)
        assert f"a thread of process {os.getpid()}" in error.message
        assert error.hint == f"flowprof attach {os.getpid()}"
        assert thread.native_id in threads_of(os.getpid())
    finally:
        go.set()
        thread.join()


def test_a_kernel_thread() -> None:
    try:
        kernel_threads = Path("/proc/2/comm").read_text() == "kthreadd\n"
    except OSError:
        kernel_threads = False
    if not kernel_threads:
        pytest.skip("no kernel threads are seen here (a container)")
    assert "kernel thread" in refused(2).message or os.geteuid() != 0


def test_a_32_bit_program(tmp_path: Path) -> None:
    code = bytes.fromhex("b81d000000cd80ebf7")  # 1: mov $29, %eax (pause); int $0x80; jmp 1b
    base = 0x08048000
    header = b"\x7fELF\x01\x01\x01" + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, 84 + len(code), 84 + len(code), 5, 4096)
    program = tmp_path / "old"
    program.write_bytes(header + segment + code)
    program.chmod(0o755)
    try:
        process = subprocess.Popen([program])
    except OSError:
        pytest.skip("this kernel runs no 32-bit programs")
    try:
        error = refused(process.pid)
        assert isinstance(error, UsageError) and "32-bit" in error.message
    finally:
        process.kill()
        process.wait()


def test_modules_of_nobody() -> None:
    with pytest.raises(NotFoundError):
        modules_of(2**22 + 1)
    assert threads_of(2**22 + 1) == {}


def test_code_that_comes_and_another_program_show_in_its_size(tmp_path: Path) -> None:
    """What is asked for once a second in place of the lines of /proc/PID/maps."""
    libc = next(m.path for m in open_target(os.getpid()).modules if "libc.so" in m.path)
    library = shutil.copy(libc, tmp_path / "library.so")
    before = code_size(os.getpid()), executable_lines(os.getpid())
    bytearray(64 << 20)  # memory that is no code
    assert (code_size(os.getpid()), executable_lines(os.getpid())) == before
    ctypes.CDLL(library)
    assert code_size(os.getpid()) != before[0] and executable_lines(os.getpid()) != before[1]
    program = "read line; echo $line; read line; export line; exec sh -c 'echo $line; read line'"
    process = subprocess.Popen(["sh", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        _hear(process)
        first = code_size(process.pid)
        _hear(process)
        assert code_size(process.pid) != first, "the same program, executed anew"
    finally:
        process.kill()
        process.wait()
    with pytest.raises(NotFoundError):
        code_size(process.pid)


@pytest.mark.parametrize("after", ["kept", "deleted", "replaced"])
def test_the_file_of_a_module_is_the_one_that_is_mapped(tmp_path: Path, after: str) -> None:
    """uprobes go to the inode: a file of the same name is another one."""
    libc = next(m.path for m in open_target(os.getpid()).modules if "libc.so" in m.path)
    copy = tmp_path / "library\n(deleted) \x1b é.so"
    copy.write_bytes(Path(libc).read_bytes())
    inode = copy.stat().st_ino
    ctypes.CDLL(str(copy))
    if after != "kept":
        copy.rename(tmp_path / "aside") if after == "replaced" else copy.unlink()
    if after == "replaced":
        copy.write_bytes(b"another file")
    (module,) = [m for m in modules_of(os.getpid()) if m.inode == inode]
    assert module.deleted == (after == "deleted")
    if os.geteuid() == 0:
        assert os.stat(module.open_path).st_ino == inode
        assert contains(module.open_path, b"GNU C Library")
    assert "\n" not in module.path


def test_names_that_are_no_text(tmp_path: Path) -> None:
    program = tmp_path / os.fsdecode(b"ca\xfft")
    shutil.copy("/bin/cat", program)
    process = subprocess.Popen([program, b"-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        _hear(process)
        target = open_target(process.pid)
        assert target.exe.endswith("/ca\\xfft") and "ca\\xfft -" in target.cmdline
        target.cmdline.encode()
        module = next(m for m in target.modules if "ca" in Path(m.path).name)
        assert module.path.endswith("/ca\\xfft") and os.path.exists(module.open_path)
        assert describe_modules([module]) == "ca\\xfft"
    finally:
        process.communicate()
    assert shown("ä\udcff") == "ä\\xff"


def test_markers(tmp_path: Path, sleeper) -> None:
    file = tmp_path / "f"
    source = 'void in_a_name(void) {} const char text[] = "in a text"; char room[1 << 20];'
    build = ["gcc", "-g", "-shared", "-x", "c", "-", "-o", file]
    subprocess.run([*build, '-DUNUSED="only in the debug information"', "-g3"], input=source, text=True, check=True)
    held = {
        marker: contains(str(file), marker) for marker in (b"in_a_name", b"in a text", b"in a test", b"only in the")
    }
    assert held == {b"in_a_name": True, b"in a text": True, b"in a test": False, b"only in the": False}
    assert b"only in the debug information" in file.read_bytes()
    bare = bytearray(file.read_bytes())
    bare[0x28:0x30], bare[0x3C:0x40] = bytes(8), bytes(4)  # e_shoff, e_shnum and e_shstrndx
    file.write_bytes(bare)
    assert contains(str(file), b"in a text")
    file.write_bytes(b"in a text")  # not ELF; and another file now
    assert not contains(str(file), b"in a text")
    assert not contains(str(tmp_path), b"marker") and not contains("/nowhere", b"marker")
    assert not contains("a\0b", b"marker")
    target = open_target(sleeper.pid)
    assert target.with_marker(b"GNU C Library") and not target.with_marker(b"no such words are in there " * 2)


def test_long_lists_are_cut() -> None:
    modules = open_target(os.getpid()).modules
    assert describe_modules(modules, 2).endswith(f"and {len({Path(m.path).name for m in modules}) - 2} more")


def test_who_has_ended() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(child.pid), "a zombie"
    child.wait()
    assert has_ended(child.pid) and not has_ended(os.getpid())
