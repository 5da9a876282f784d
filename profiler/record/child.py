"""Start a command so that it can be recorded from its first instruction: forked, held before exec, then let go."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.errors import FlowprofError, NotFoundError, PermissionDeniedError
from flowprof.profiler.target import Mapping, Module, Target, shown


class Child:
    """A forked process that waits for `release()` before it becomes the command. It runs as $SUDO_UID under sudo."""

    def __init__(self, command: Sequence[str], user: int | None) -> None:
        """Raises NotFoundError when the command or the user is not there, PermissionDeniedError when it cannot be
        executed."""
        self.command = list(command)
        self.path = _resolve(command[0])
        self.user = _user(user) if user is not None else None
        self.released = False
        self._go_read, self._go_write = os.pipe()
        self._failed_read, failed_write = os.pipe()
        self.exit_code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._become(failed_write)
        os.close(self._go_read)
        os.close(failed_write)

    def _become(self, failed_write: int) -> None:
        """In the child: wait, drop to the user, exec. Never returns."""
        try:
            os.close(self._go_write)
            if os.read(self._go_read, 1) != b"g":
                os._exit(127)  # flowprof died or gave up
            # Python ignores these two. All else stays as it was given to us: `nohup flowprof run` is for the command.
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            if self.user is not None:
                os.setgroups(self.user.groups)
                os.setgid(self.user.gid)
                os.setuid(self.user.uid)
            os.execve(self.path, self.command, self._environment())
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(failed_write, f"{error}".encode()[:500])
        finally:
            os._exit(127)

    def target(self) -> Target:
        """The process as it will be: its executable and the libraries that the loader will map at start."""
        modules = tuple(
            Module(self.pid, shown(path), path, os.stat(path).st_ino, "", False, (Mapping(0, 0, 0),))
            for path in [self.path, *self._libraries()]
            if os.path.isfile(path)
        )
        return Target(
            self.pid, os.getpid(), self.user.uid if self.user is not None else os.getuid(), shown(self.path),
            shown(" ".join(self.command)), os.stat(f"/proc/{self.pid}").st_ctime, modules,
        )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        """Ours; under sudo with the user's own home and name, where sudo has put root's."""
        if self.user is None or not self.user.name:
            return dict(os.environ)
        return {**os.environ, "HOME": self.user.home, "USER": self.user.name, "LOGNAME": self.user.name}

    def _libraries(self) -> list[str]:
        """What the dynamic loader says it would map; it starts nothing of the program (that is how ldd works)."""
        try:
            with ElfFile(self.path) as elf:
                if elf.static:
                    return []
            user = self.user
            answer = subprocess.run(
                [self.path], env={**self._environment(), "LD_TRACE_LOADED_OBJECTS": "1"}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, errors="surrogateescape", timeout=10, check=False,
                user=user.uid if user else None, group=user.gid if user else None,
                extra_groups=user.groups if user else None,
            )  # fmt: skip
        except (FlowprofError, OSError, subprocess.SubprocessError):
            return []
        paths = [part for line in answer.stdout.splitlines() for part in line.split() if part.startswith("/")]
        return [os.path.realpath(path) for path in paths]

    def release(self) -> None:
        """Let it exec. Raises PermissionDeniedError when the kernel refuses the program."""
        self.released = True
        with contextlib.suppress(BrokenPipeError):  # it was killed while it waited
            os.write(self._go_write, b"g")
        os.close(self._go_write)
        with open(self._failed_read, "rb") as failed:  # closes at exec
            why = failed.read().decode(errors="replace")
        if why:
            self.wait()
            raise PermissionDeniedError(f"{self.path} could not be started: {why}")

    def abandon(self) -> None:
        """End the child before it became the command; once it has, nothing happens."""
        if not self.released:
            self.released = True
            os.close(self._go_write)
            os.close(self._failed_read)
            self.wait()

    def wait(self) -> int:
        """Wait for its end; its exit code, 128 + signal when it was killed."""
        if self.exit_code is None:
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            self.exit_code = code if code >= 0 else 128 - code
        return self.exit_code


@dataclass(frozen=True, slots=True)
class _User:
    uid: int
    gid: int
    groups: list[int]
    name: str
    home: str


def _user(uid: int) -> _User:
    """Whom the command runs as. A user that the host does not know by name has no groups but root's must not stay."""
    try:
        entry = pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        gid = os.environ.get("SUDO_GID", "")
        if not gid.isdigit():
            raise NotFoundError(
                f"there is no user {uid} here (SUDO_UID), and SUDO_GID names no group", "unset SUDO_UID to run as root"
            ) from None
        return _User(uid, int(gid), [int(gid)], "", "")
    return _User(uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid), entry.pw_name, entry.pw_dir)


def _resolve(name: str) -> str:
    import shutil

    found = shutil.which(name)
    if found is None:
        if name and Path(name).is_dir():
            raise PermissionDeniedError(f"{name} is a directory, not a command", "flowprof run -- CMD ARG…")
        if name and Path(name).exists():
            raise PermissionDeniedError(f"{name} is not an executable file", f"chmod +x {name}")
        raise NotFoundError(f"there is no command {name!r}", "flowprof run -- CMD ARG…")
    return os.path.abspath(found)
