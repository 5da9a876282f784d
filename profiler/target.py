"""A running process: its binaries as the kernel knows them, and which of them hold an engine. Reads /proc only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from flowprof.profiler.binaries.markers import contains
from flowprof.profiler.errors import NotFoundError, PermissionDeniedError, UsageError

_MAX_MAPS_BYTES = 64 << 20
_START_STACK = 25  # of the fields of /proc/PID/stat behind the command


@dataclass(frozen=True, slots=True)
class Mapping:
    """One executable mapping of a file."""

    start: int
    end: int
    offset: int


@dataclass(frozen=True, slots=True)
class Module:
    """A file that the process executes code from.

    path: as the target sees it. open_path: the same file for us, through the target's own root or, when it was deleted
    or replaced since, through map_files: uprobes belong to the inode, and it must be this one.
    """

    pid: int
    path: str
    open_path: str
    inode: int
    device: str
    deleted: bool
    mappings: tuple[Mapping, ...]

    def holds(self, marker: bytes, files: str = "") -> bool:
        """Whether `marker` is among its file's strings; `files`: and its name matches this regular expression."""
        named = not files or re.fullmatch(files, Path(self.path).name) is not None
        return named and contains(self.open_path, marker)


@dataclass(frozen=True, slots=True)
class Target:
    """A process to be recorded."""

    pid: int
    ppid: int
    uid: int
    exe: str
    cmdline: str
    started_at: float  # seconds since the epoch
    modules: tuple[Module, ...] = field(repr=False)

    def with_marker(self, marker: bytes, files: str = "") -> list[Module]:
        """The modules that hold `marker`; `files`: and whose name matches."""
        return [module for module in self.modules if module.holds(marker, files)]


def open_target(pid: int) -> Target:
    """Look at process `pid`.

    Raises NotFoundError (no such process, a kernel thread, a zombie), PermissionDeniedError, UsageError (32-bit).
    """
    if pid <= 0:
        raise UsageError(f"{pid} is not a process id.", "flowprof attach PID")
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            status, ppid, uid = process.status(), process.ppid(), process.uids().real
            name, started = shown(process.name()), process.create_time()
            cmdline = shown(" ".join(process.cmdline()))
    except psutil.ZombieProcess as error:
        raise NotFoundError(f"Process {pid} has ended and waits for its parent to collect it.") from error
    except psutil.NoSuchProcess as error:
        raise NotFoundError(
            f"There is no process {pid}.", "ps aux | grep llama; of a container's process give the host's pid"
        ) from error
    except psutil.AccessDenied as error:
        raise _denied(pid, "its status") from error
    leader = _leader(pid)
    if leader != pid:
        raise NotFoundError(f"{pid} is a thread of process {leader} ({name}).", f"flowprof attach {leader}")
    if status == psutil.STATUS_ZOMBIE:
        raise NotFoundError(f"Process {pid} ({name}) has ended and waits for its parent to collect it.")
    try:
        exe = os.readlink(f"/proc/{pid}/exe")
    except PermissionError as error:
        raise _denied(pid, f"/proc/{pid}/exe") from error
    except OSError as error:
        raise NotFoundError(f"Process {pid} ({name}) is a kernel thread or is ending: it has no program.") from error
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            head = file.read(5)
    except OSError:
        head = b""
    if head[:4] == b"\x7fELF" and head[4] == 1:
        raise UsageError(f"Process {pid} ({name}) is a 32-bit program; flowprof reads 64-bit targets only.")
    return Target(pid, ppid, uid, shown(exe), cmdline or name, started, modules_of(pid))


def has_ended(pid: int) -> bool:
    """Whether there is no such process any more; a zombie has ended."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except FileNotFoundError:
        return True
    except OSError:
        pass  # it is there, and not ours to look at
    return False


def _leader(pid: int) -> int:
    """The process that thread `pid` belongs to: itself, for a process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        return int(next(line for line in status.splitlines() if line.startswith("Tgid:")).split()[1])
    except (OSError, StopIteration):
        return pid


def shown(name: str) -> str:
    """A name from the kernel as text that can be stored: bytes that are no UTF-8 as `\\xff`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def modules_of(pid: int) -> tuple[Module, ...]:
    """The files that `pid` executes code from, now. Raises PermissionDeniedError or NotFoundError."""
    return modules_in(pid, executable_lines(pid))


def executable_lines(pid: int) -> bytes:
    """The lines of /proc/PID/maps about code: they change when a library comes or goes, and seldom else.

    Raises PermissionDeniedError or NotFoundError.
    """
    return b"\n".join(line for line in map_lines(pid).split(b"\n") if b"x" in line[:40].partition(b" ")[2][:4])


def code_size(pid: int) -> bytes:
    """How much code `pid` has mapped, and where its stack starts: a twentieth of the work of `executable_lines`.

    It changes when a library comes or goes and when another program is executed; not when one library takes the place
    of another of the same size. Raises NotFoundError.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as status, open(f"/proc/{pid}/stat", "rb") as stat:
            sizes = [line for line in status.read().split(b"\n") if line.startswith((b"VmExe", b"VmLib"))]
            return b" ".join([*sizes, stat.read().rpartition(b")")[2].split()[_START_STACK]])
    except (OSError, IndexError) as error:
        raise NotFoundError(f"Process {pid} is gone.") from error


def map_lines(pid: int) -> bytes:
    """The lines of /proc/PID/maps. Raises PermissionDeniedError or NotFoundError."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            return file.read(_MAX_MAPS_BYTES)
    except PermissionError as error:
        raise _denied(pid, f"/proc/{pid}/maps") from error
    except OSError as error:
        raise NotFoundError(f"Process {pid} is gone.") from error


def modules_in(pid: int, lines: bytes) -> tuple[Module, ...]:
    """The files of `executable_lines`."""
    found: dict[tuple[str, int, str], list[Mapping]] = {}
    for line in lines.decode(errors="surrogateescape").split("\n"):
        parts = line.split(maxsplit=5)
        if len(parts) < 6 or "x" not in parts[1] or not parts[5].startswith("/"):
            continue
        start, end = (int(x, 16) for x in parts[0].split("-"))
        found.setdefault((parts[3], int(parts[4]), parts[5]), []).append(Mapping(start, end, int(parts[2], 16)))
    return tuple(_module(pid, *key, mappings) for key, mappings in found.items())


def _module(pid: int, device: str, inode: int, name: str, mappings: list[Mapping]) -> Module:
    deleted = name.endswith(" (deleted)")
    path = name.removesuffix(" (deleted)")
    through_root = f"/proc/{pid}/root{path}"
    first = mappings[0]
    open_path = f"/proc/{pid}/map_files/{first.start:x}-{first.end:x}"
    try:
        # Overlay file systems show another device number in stat than in maps; the inode agrees on both.
        if os.stat(through_root).st_ino == inode:
            open_path = through_root
    except OSError:
        pass
    return Module(pid, shown(path), open_path, inode, device, deleted, tuple(mappings))


def threads_of(pid: int) -> dict[int, tuple[str, str | None]]:
    """Thread id → name and the processors that it may use (`0-3,8`), now; empty when the process is gone."""
    found: dict[int, tuple[str, str | None]] = {}
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                status = Path(f"/proc/{pid}/task/{task}/status").read_text(errors="replace")
            except OSError:
                continue
            words = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            found[int(task)] = (words.get("Name", "").strip(), words.get("Cpus_allowed_list", "").strip() or None)
    except OSError:
        pass
    return found


def mapped_model(pid: int) -> str | None:
    """The name of the largest .gguf file that `pid` has mapped; None when it maps none (or loads without mmap)."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = file.read(_MAX_MAPS_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return None
    sizes: dict[str, int] = {}
    for line in lines:
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5].endswith(".gguf"):
            start, end = (int(x, 16) for x in parts[0].split("-"))
            sizes[parts[5]] = sizes.get(parts[5], 0) + end - start
    return Path(max(sizes, key=lambda name: sizes[name])).name[:200] if sizes else None


def describe_modules(modules: Iterable[Module], limit: int = 12) -> str:
    """The names of the modules looked at, for a message."""
    names = sorted({Path(module.path).name for module in modules})
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _denied(pid: int, what: str) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"The kernel lets uid {os.geteuid()} not read {what}: for another user's process that needs CAP_SYS_PTRACE.",
        f"sudo flowprof attach {pid}",
    )
