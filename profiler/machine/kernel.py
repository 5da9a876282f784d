"""What the running kernel offers, asked of itself by its own calls: no bcc, no root needed to ask."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
from pathlib import Path

UPROBE_MULTI = (6, 6)  # the version that brought uprobe_multi links
_SYSCALLS = {"x86_64": (321, 298), "aarch64": (280, 241)}  # bpf, perf_event_open
_MAP_CREATE, _ARRAY, _MMAPABLE = 0, 2, 1024
_ATTR_BYTES = 128  # union bpf_attr, as far as anything here fills it
_HARDWARE, _CYCLES, _USER_ONLY = 0, 0, 0x20 | 0x40
_CLOEXEC = 8
_CPUINFO_BYTES = 16 << 10

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> tuple[int, int]:
    """Major and minor version; (0, 0) when the release says nothing of the kind."""
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)


def bpf(command: int, attr: bytes) -> int:
    """The bpf system call. attr: the head of union bpf_attr. Returns a file descriptor or 0. Raises OSError."""
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    return _call(0, command, buffer, _ATTR_BYTES)


def perf_event_open(attr: bytes, pid: int, cpu: int) -> int:
    """The file descriptor of a performance event. attr: struct perf_event_attr. Raises OSError."""
    return _call(1, ctypes.create_string_buffer(attr, len(attr)), pid, cpu, -1, _CLOEXEC)


def _call(call: int, *arguments: object) -> int:
    numbers = _SYSCALLS.get(platform.machine())
    if numbers is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    result = int(_libc.syscall(numbers[call], *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def try_bpf() -> str | None:
    """Make and close a small mappable array. None when it works, else the error's name (EPERM, ENOSYS …)."""
    try:
        os.close(bpf(_MAP_CREATE, struct.pack("<IIIII", _ARRAY, 4, 8, 1, _MMAPABLE)))
    except OSError as error:
        return _name(error)
    return None


def try_cycles_counter() -> str | None:
    """Count this thread's cycles for a moment. None when it moves, else the error's name, or `stands still`."""
    attr = struct.pack("<IIQQQQQ", _HARDWARE, 112, _CYCLES, 0, 0, 0, _USER_ONLY).ljust(112, b"\0")
    try:
        fd = perf_event_open(attr, 0, -1)
    except OSError as error:
        return _name(error)
    try:
        sum(range(1000))
        return None if any(os.read(fd, 8)) else "stands still"
    except OSError as error:
        return _name(error)
    finally:
        os.close(fd)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "EIO")


def text(path: str) -> str:
    """A small file of /proc or /sys; empty when it is absent or not readable."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def cpuinfo() -> str:
    """The beginning of /proc/cpuinfo, with the first processors' facts: with hundreds the whole takes long to make."""
    try:
        with Path("/proc/cpuinfo").open(errors="replace") as file:
            return file.read(_CPUINFO_BYTES)
    except OSError:
        return ""


def setting(name: str) -> str:
    """A sysctl, by its path below /proc/sys; empty when it cannot be read."""
    return text(f"/proc/sys/{name}").strip()
