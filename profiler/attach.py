"""Attach a loaded program to probe sites, and detach it: through one uprobe_multi link, or one perf event per site.

Closing what these functions return detaches; the kernel does the same when flowprof dies, whatever killed it.
Both ways carry the site's number as the BPF cookie and filter on one process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowprof.profiler.bpf import Program
from flowprof.profiler.errors import BpfError, NotFoundError, PermissionDeniedError

# syscall numbers: (bpf, perf_event_open)
_SYSCALLS = {"x86_64": (321, 298), "aarch64": (280, 241)}
_LINK_CREATE = 28
_UPROBE_MULTI, _PERF_EVENT = 48, 41
_RETURN = 1
UPROBE_PMU = Path("/sys/bus/event_source/devices/uprobe")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class AttachPoint:
    """Where one program goes: the file (as flowprof can open it), its offset, the cookie, entry or return."""

    path: str
    offset: int
    cookie: int
    is_return: bool = False


class Attachment:
    """File descriptors that hold probes in place. `close()` detaches them."""

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    def close(self) -> None:
        """Detach. Safe to call twice."""
        while self._fds:
            os.close(self._fds.pop())


def attach(program: Program, points: Sequence[AttachPoint], pid: int, multi: bool) -> Attachment:
    """Attach `program` to all `points` in process `pid`; all or nothing.

    Raises PermissionDeniedError, NotFoundError (process gone) or BpfError with the kernel's word.
    """
    fds: list[int] = []
    try:
        if multi:
            for path, is_return in sorted({(p.path, p.is_return) for p in points}):
                group = [p for p in points if (p.path, p.is_return) == (path, is_return)]
                fds.append(_multi_link(program, path, group, pid, is_return))
        else:
            for point in points:
                fds.extend(_perf_event_link(program, point, pid))
    except BaseException:
        Attachment(fds).close()
        raise
    return Attachment(fds)


def _bpf(attr: bytes) -> int:
    number = _SYSCALLS.get(platform.machine(), (321, 298))[0]
    buffer = ctypes.create_string_buffer(attr, len(attr))
    return int(_libc.syscall(number, _LINK_CREATE, buffer, len(attr)))


def _multi_link(program: Program, path: str, points: Sequence[AttachPoint], pid: int, is_return: bool) -> int:
    name = ctypes.create_string_buffer(os.fsencode(path))
    offsets = (ctypes.c_uint64 * len(points))(*[p.offset for p in points])
    cookies = (ctypes.c_uint64 * len(points))(*[p.cookie for p in points])
    attr = struct.pack(
        "<IIIIQQQQIII",
        program.fd, 0, _UPROBE_MULTI, 0,
        ctypes.addressof(name), ctypes.addressof(offsets), 0, ctypes.addressof(cookies),
        len(points), _RETURN if is_return else 0, pid,
    )  # fmt: skip
    fd = _bpf(attr.ljust(128, b"\0"))
    if fd < 0:
        raise _attach_error(path, pid, "uprobe_multi link")
    os.set_inheritable(fd, False)
    return fd


def _perf_event_link(program: Program, point: AttachPoint, pid: int) -> list[int]:
    try:
        pmu = int((UPROBE_PMU / "type").read_text())
        bit = int((UPROBE_PMU / "format" / "retprobe").read_text().split(":")[1])
    except (OSError, ValueError, IndexError) as missing:
        raise BpfError(f"this kernel offers no uprobe events ({UPROBE_PMU} is missing)", "flowprof doctor") from missing
    name = ctypes.create_string_buffer(os.fsencode(point.path))
    # struct perf_event_attr: type, size, config, sample_period, sample_type, read_format, flags, wakeup, bp_type,
    # config1 (path), config2 (offset)
    attr = struct.pack(
        "<IIQQQQQIIQQ", pmu, 112, (1 << bit) if point.is_return else 0, 0, 0, 0, 0, 0, 0,
        ctypes.addressof(name), point.offset,
    ).ljust(112, b"\0")  # fmt: skip
    number = _SYSCALLS.get(platform.machine(), (321, 298))[1]
    buffer = ctypes.create_string_buffer(attr, len(attr))
    cloexec = 8
    event = int(_libc.syscall(number, buffer, pid, -1, -1, cloexec))
    if event < 0:
        raise _attach_error(point.path, pid, "perf event")
    link = _bpf(struct.pack("<IIIIQ", program.fd, event, _PERF_EVENT, 0, point.cookie).ljust(128, b"\0"))
    if link < 0:
        error = _attach_error(point.path, pid, "perf event link")
        os.close(event)
        raise error
    return [event, link]


def _attach_error(path: str, pid: int, what: str) -> Exception:
    code = ctypes.get_errno()
    word = f"the kernel refused a {what} on {path} for process {pid}: {os.strerror(code)}"
    if code in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError(word, "run as root, or with CAP_BPF and CAP_PERFMON: sudo flowprof …")
    if code == errno.ESRCH or (code == errno.ENOENT and not os.path.exists(f"/proc/{pid}/exe")):
        # A zombie has its files in /proc still, but neither a program nor a root.
        return NotFoundError(f"process {pid} is gone")
    return BpfError(word, "flowprof doctor")
