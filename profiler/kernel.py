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
_HARDWARE, _CYCLES, _USER_ONLY = 0, 0, 0x20 | 0x40


def version() -> tuple[int, int]:
    """Major and minor version; (0, 0) when the release says nothing of the kind."""
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)


def try_bpf() -> str | None:
    """Make and close a small mappable array. None when it works, else the error's name (EPERM, ENOSYS …)."""
    attr = struct.pack("<IIIII", _ARRAY, 4, 8, 1, _MMAPABLE).ljust(128, b"\0")
    fd = _call(0, _MAP_CREATE, ctypes.create_string_buffer(attr, 128), 128)
    if isinstance(fd, str):
        return fd
    os.close(fd)
    return None


def try_cycles_counter() -> str | None:
    """Count this thread's cycles for a moment. None when it moves, else the error's name, or `stands still`."""
    attr = struct.pack("<IIQQQQQ", _HARDWARE, 112, _CYCLES, 0, 0, 0, _USER_ONLY).ljust(112, b"\0")
    fd = _call(1, ctypes.create_string_buffer(attr, 112), 0, -1, -1, 0)
    if isinstance(fd, str):
        return fd
    try:
        sum(range(1000))
        return None if any(os.read(fd, 8)) else "stands still"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "EIO")
    finally:
        os.close(fd)


def _call(call: int, *arguments: object) -> int | str:
    """The file descriptor, or the error's name."""
    numbers = _SYSCALLS.get(platform.machine())
    if numbers is None:
        return "ENOSYS"
    fd = int(ctypes.CDLL(None, use_errno=True).syscall(numbers[call], *arguments))
    return fd if fd >= 0 else errno.errorcode.get(ctypes.get_errno(), "EINVAL")


def text(path: str) -> str:
    """A small file of /proc or /sys; empty when it is absent or not readable."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def setting(name: str) -> str:
    """A sysctl, by its path below /proc/sys; empty when it cannot be read."""
    return text(f"/proc/sys/{name}").strip()
