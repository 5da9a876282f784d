"""Start a command so that it can be recorded from its first instruction: forked, held before exec, then let go."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from flowprof.profiler.elf import ElfFile
from flowprof.profiler.errors import FlowprofError, NotFoundError, PermissionDeniedError
from flowprof.profiler.target import Mapping, Module, Target


class Child:
    """A forked process that waits for `release()` before it becomes the command. It runs as $SUDO_UID under sudo."""

    def __init__(self, command: Sequence[str], user: int | None) -> None:
        """Raises NotFoundError when the command is not there, PermissionDeniedError when it cannot be executed."""
        self.command = list(command)
        self.path = _resolve(command[0])
        self.user = user
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
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            if self.user is not None:
                entry = pwd.getpwuid(self.user)
                os.initgroups(entry.pw_name, entry.pw_gid)
                os.setgid(entry.pw_gid)
                os.setuid(self.user)
            os.execv(self.path, self.command)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(failed_write, f"{error}".encode()[:500])
        finally:
            os._exit(127)

    def target(self) -> Target:
        """The process as it will be: its executable and the libraries that the loader will map at start."""
        modules = tuple(
            Module(self.pid, path, path, os.stat(path).st_ino, "", False, (Mapping(0, 0, 0),))
            for path in [self.path, *self._libraries()]
            if os.path.isfile(path)
        )
        return Target(
            self.pid, os.getpid(), self.user if self.user is not None else os.getuid(), self.path,
            " ".join(self.command), os.stat(f"/proc/{self.pid}").st_ctime, modules,
        )  # fmt: skip

    def _libraries(self) -> list[str]:
        """What the dynamic loader says it would map; it starts nothing of the program (that is how ldd works)."""
        try:
            with ElfFile(self.path) as elf:
                if elf.static:
                    return []
            answer = subprocess.run(
                [self.path], env={**os.environ, "LD_TRACE_LOADED_OBJECTS": "1"}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=10, check=False, user=self.user,
            )  # fmt: skip
        except (FlowprofError, OSError, subprocess.SubprocessError):
            return []
        paths = [part for line in answer.stdout.splitlines() for part in line.split() if part.startswith("/")]
        return [os.path.realpath(path) for path in paths]

    def release(self) -> None:
        """Let it exec. Raises PermissionDeniedError when the kernel refuses the program."""
        os.write(self._go_write, b"g")
        os.close(self._go_write)
        with open(self._failed_read, "rb") as failed:  # closes at exec
            why = failed.read().decode(errors="replace")
        if why:
            self.wait()
            raise PermissionDeniedError(f"{self.path} could not be started: {why}")

    def abandon(self) -> None:
        """End the child before it became the command."""
        with contextlib.suppress(OSError):
            os.close(self._go_write)
        self.wait()

    def wait(self) -> int:
        """Wait for its end; its exit code, 128 + signal when it was killed."""
        if self.exit_code is None:
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            self.exit_code = code if code >= 0 else 128 - code
        return self.exit_code


def _resolve(name: str) -> str:
    import shutil

    found = shutil.which(name)
    if found is None:
        if Path(name).exists():
            raise PermissionDeniedError(f"{name} is not an executable file", f"chmod +x {name}")
        raise NotFoundError(f"there is no command {name}", "flowprof run -- CMD ARG…")
    return os.path.abspath(found)
