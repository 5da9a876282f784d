"""Attach a loaded program to probe sites, and detach it: through one uprobe_multi link, or one perf event per site.

Closing what these functions return detaches; the kernel does the same when flowprof dies, whatever killed it.
Both ways carry the site's number as the BPF cookie and filter on one process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flowprof.profiler.errors import BpfError, NotFoundError, PermissionDeniedError
from flowprof.profiler.kernel_side.bpf import Program
from flowprof.profiler.machine import kernel

_LINK_CREATE = 28
_UPROBE_MULTI, _PERF_EVENT = 48, 41
_RETURN = 1
UPROBE_PMU = Path("/sys/bus/event_source/devices/uprobe")


@dataclass(frozen=True, slots=True)
class AttachPoint:
    """Where one program goes: the file (as flowprof can open it), its offset, the cookie, entry or return."""

    path: str
    offset: int
    cookie: int
    is_return: bool = False


class Attachment:
    """File descriptors that hold probes in place. `close()` detaches them. sites: which, where it is told."""

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds
        self.sites: frozenset[int] = frozenset()

    def close(self) -> None:
        """Detach. Safe to call twice."""
        while self._fds:
            os.close(self._fds.pop())


def close_all(attachments: list[Attachment]) -> None:
    """Detach them and empty the list. For each the kernel waits until all processors have passed by, 50 to 100 ms where
    they are busy: it is asked for all at once."""
    if attachments:
        with ThreadPoolExecutor(len(attachments)) as closers:
            list(closers.map(Attachment.close, attachments))
        attachments.clear()


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
    try:
        return _link(attr)
    except OSError as error:
        raise _attach_error(error, path, pid, "uprobe_multi link") from error


def _perf_event_link(program: Program, point: AttachPoint, pid: int) -> list[int]:
    try:
        pmu = int((UPROBE_PMU / "type").read_text())
        bit = int((UPROBE_PMU / "format" / "retprobe").read_text().split(":")[1])
    except (OSError, ValueError, IndexError) as missing:
        raise BpfError(f"this kernel offers no uprobe events ({UPROBE_PMU} is missing)", "flowprof doctor") from missing
    name = ctypes.create_string_buffer(os.fsencode(point.path))
    config = (1 << bit) if point.is_return else 0
    event = None
    try:
        event = open_perf_event(pmu, config, 0, pid, -1, ctypes.addressof(name), point.offset)
        return [event, link_perf_event(program, event, point.cookie)]
    except OSError as error:
        if event is not None:
            os.close(event)
        raise _attach_error(error, point.path, pid, "perf event" if event is None else "perf event link") from error


def open_perf_event(
    kind: int, config: int, period: int, pid: int, cpu: int, config1: int = 0, config2: int = 0, flags: int = 0
) -> int:
    """perf_event_open; the event counts at once. Raises OSError."""
    # struct perf_event_attr: type, size, config, sample_period, sample_type, read_format, flags, wakeup, bp_type,
    # config1 (a probe's path), config2 (its offset)
    attr = struct.pack("<IIQQQQQIIQQ", kind, 112, config, period, 0, 0, flags, 0, 0, config1, config2).ljust(112, b"\0")
    return kernel.perf_event_open(attr, pid, cpu)


def link_perf_event(program: Program, event: int, cookie: int) -> int:
    """Run `program` whenever the event fires; closing the link ends it. Raises OSError."""
    return _link(struct.pack("<IIIIQ", program.fd, event, _PERF_EVENT, 0, cookie))


def _link(attr: bytes) -> int:
    fd = kernel.bpf(_LINK_CREATE, attr)
    os.set_inheritable(fd, False)
    return fd


def _attach_error(error: OSError, path: str, pid: int, what: str) -> Exception:
    code = error.errno or 0
    word = f"the kernel refused a {what} on {path} for process {pid}: {os.strerror(code)}"
    if code in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError(word, "run as root, or with CAP_BPF and CAP_PERFMON: sudo flowprof …")
    if code == errno.ESRCH or (code == errno.ENOENT and not os.path.exists(f"/proc/{pid}/exe")):
        # A zombie has its files in /proc still, but neither a program nor a root.
        return NotFoundError(f"process {pid} is gone")
    return BpfError(word, "flowprof doctor")
