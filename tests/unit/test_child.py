"""The command of `flowprof run`: held until it is let go, who it runs as, what it inherits, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flowprof.profiler.errors import FlowprofError, NotFoundError, PermissionDeniedError
from flowprof.profiler.record.child import Child

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534


def finished(*command: str, user: int | None = None) -> int:
    child = Child(command, user)
    child.release()
    return child.wait()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -SEGV $$", 139), ("exit 300", 44)]
)
def test_the_exit_code(script: str, code: int) -> None:
    assert finished("sh", "-c", script) == code


def test_nothing_runs_before_it_is_let_go(tmp_path: Path) -> None:
    child = Child(["touch", str(tmp_path / "begun")], None)
    time.sleep(0.2)
    assert not (tmp_path / "begun").exists()
    target = child.target()
    assert target.pid == child.pid and Path(target.exe).name == "touch" and target.cmdline.startswith("touch ")
    assert any("libc.so" in module.path for module in target.modules)
    child.release()
    assert child.wait() == 0 and (tmp_path / "begun").exists()


def test_abandoned(tmp_path: Path) -> None:
    child = Child(["touch", str(tmp_path / "begun")], None)
    before = set(os.listdir("/proc/self/fd"))
    child.abandon()
    child.abandon()
    assert child.exit_code == 127 and not (tmp_path / "begun").exists()
    assert len(before) - len(os.listdir("/proc/self/fd")) == 2, "its pipes are closed"


def test_abandoning_does_not_wait_for_a_command_that_runs() -> None:
    child = Child(["sleep", "60"], None)
    child.release()
    child.abandon()
    assert child.exit_code is None
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == 143


def test_it_does_not_begin_when_flowprof_dies(tmp_path: Path) -> None:
    script = (
        "import os, time; from flowprof.profiler.record.child import Child\n"
        f"child = Child(['touch', {str(tmp_path / 'begun')!r}], None)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not (tmp_path / "begun").exists()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


def test_it_is_killed_while_it_waits() -> None:
    child = Child(["true"], None)
    os.kill(child.pid, signal.SIGKILL)
    child.release()
    assert child.wait() == 137


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("no-such-command", NotFoundError, "no command"),
        ("./no-such-file", NotFoundError, "no command"),
        ("", NotFoundError, "no command"),
        ("/tmp", PermissionDeniedError, "directory"),
        ("/etc/passwd", PermissionDeniedError, "not an executable file"),
    ],
)
def test_commands_that_are_none(name: str, kind: type[FlowprofError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        Child([name], None)
    assert caught.value.hint


def test_a_file_that_the_kernel_refuses(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x01\x02\x03")
    program.chmod(0o755)
    child = Child([str(program)], None)
    assert child.target().modules
    with pytest.raises(PermissionDeniedError, match=r"could not be started: .* format"):
        child.release()
    assert child.wait() == 127


def test_a_relative_name_and_argv0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho $0 $1\n")
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert finished("./tool", "a b") == 0
    assert capfd.readouterr().out == f"{tmp_path}/tool a b\n"  # a script gets the path that was executed


REPORT = """
import json, os, signal
print(json.dumps({
    "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid()], "groups": os.getgroups(),
    "names": {n: os.environ.get(n) for n in ("HOME", "USER", "LOGNAME", "KEPT")},
    "ignored": [n for n in range(1, 32) if int(next(l for l in open("/proc/self/status") if l.startswith("SigIgn"))
                .split()[1], 16) >> (n - 1) & 1],
    "files": sorted(int(n) for n in os.listdir("/proc/self/fd")),
}))
"""
PYTHON = ["/usr/bin/python3", "-I", "-S", "-c"]


def _reported(capfd, user: int | None) -> dict:
    script = "import signal; signal.signal(13, signal.SIG_DFL)\n" + REPORT
    assert finished(*PYTHON, script, user=user) == 0
    return json.loads(capfd.readouterr().out)


def _inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


@root
def test_it_runs_as_the_user(capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of root's stays: neither the groups nor the home, and no file of ours."""
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("KEPT", "yes")
    seen = _reported(capfd, NOBODY)
    assert set(seen["ids"]) == {NOBODY} and seen["groups"] == [NOBODY]
    assert seen["names"] == {"HOME": "/nonexistent", "USER": "nobody", "LOGNAME": "nobody", "KEPT": "yes"}
    inherited = {int(n) for n in os.listdir("/proc/self/fd") if _inheritable(int(n))}
    assert len(set(seen["files"]) - inherited) <= 1, "the listing's own file only"


@root
def test_a_user_without_a_name(capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_GID", raising=False)
    with pytest.raises(NotFoundError, match="no user 54321"):
        Child(["true"], 54321)
    monkeypatch.setenv("SUDO_GID", "65432")
    seen = _reported(capfd, 54321)
    assert seen["ids"] == [54321, 54321, 65432, 65432] and seen["groups"] == [65432]


def test_the_environment_is_ours_without_sudo(capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert _reported(capfd, None)["names"]["HOME"] == "/somewhere"


@pytest.mark.parametrize("ignored", [[], [signal.SIGHUP, signal.SIGINT]])
def test_what_is_ignored_stays_ignored(capfd, ignored: list[signal.Signals]) -> None:
    """`nohup flowprof run` is for the command; what only Python ignores is not passed on."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        command = ["grep", "SigIgn", "/proc/self/status"]
        assert finished(*command) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    mask = int(capfd.readouterr().out.split()[1], 16)
    assert not mask >> (signal.SIGPIPE - 1) & 1 and not mask >> (signal.SIGXFSZ - 1) & 1
    for number in ignored:
        assert mask >> (number - 1) & 1
