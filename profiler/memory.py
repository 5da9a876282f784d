"""Reading another process's memory, and nothing more: `process_vm_readv`, no ptrace stop, never a write.

Rows of equal size (tensors, pointers' strings) are read many per system call straight into one numpy array: 1 000
tensors of 336 bytes take well under a millisecond. Every address came from the target and is untrusted: sizes are
bounded here.
"""

from __future__ import annotations

import ctypes
import errno
import os

import numpy as np
import numpy.typing as npt
from flowprof.profiler.errors import FlowprofError, NotFoundError, PermissionDeniedError

MAX_READ = 64 << 20  # bytes in one request; the largest graph that we describe needs less
_IOV_MAX = 1024  # the kernel's limit of pieces per call
_PAGE = 4096

Bytes2D = npt.NDArray[np.uint8]
Addresses = npt.NDArray[np.uint64]


class MemoryGone(NotFoundError):  # noqa: N818 - it reads as what happened
    """The process has ended."""


class Unreadable(FlowprofError):  # noqa: N818 (it says what happened, and is not always an error)
    """An address that is not mapped (any more): a stale or wrong pointer. Worth another try with a fresh pointer."""


_libc = ctypes.CDLL(None, use_errno=True)
_readv = _libc.process_vm_readv
_readv.restype = ctypes.c_ssize_t
_readv.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
]


class Memory:
    """The memory of one live process. Raises MemoryGone, Unreadable, PermissionDeniedError."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`; all of them or Unreadable."""
        rows, readable = self.read_rows(np.array([address], dtype=np.uint64), size)
        if not readable[0]:
            raise Unreadable(f"process {self.pid} has no readable {size} bytes at 0x{address:x}")
        return bytes(rows[0])

    def read_words(self, address: int, count: int) -> npt.NDArray[np.uint64]:
        """`count` 64-bit words at `address`."""
        return np.frombuffer(self.read(address, count * 8), dtype="<u8")

    def read_rows(self, addresses: Addresses, size: int) -> tuple[Bytes2D, npt.NDArray[np.bool_]]:
        """One row of `size` bytes per address → (rows[n, size], readable[n]); unreadable rows are zero."""
        count = len(addresses)
        if size <= 0 or count * size > MAX_READ:
            raise Unreadable(f"refused to read {count} pieces of {size} bytes: over the limit of {MAX_READ} bytes")
        rows = np.zeros((count, size), dtype=np.uint8)
        readable = np.zeros(count, dtype=np.bool_)
        remote = np.empty((count, 2), dtype=np.uint64)
        remote[:, 0] = addresses
        remote[:, 1] = size
        local = np.empty(2, dtype=np.uint64)
        done = 0
        while done < count:
            pieces = min(_IOV_MAX, count - done)
            local[:] = (rows.ctypes.data + done * size, pieces * size)
            got = _readv(self.pid, local.ctypes.data, 1, remote[done:].ctypes.data, pieces, 0)
            if got < 0:
                self._explain(ctypes.get_errno())
                got = 0
            whole = int(got) // size
            readable[done : done + whole] = True
            rows[done + whole : done + whole + 1] = 0  # a piece read in part does not count
            done += whole + (whole < pieces)
        return rows, readable

    def read_strings(self, addresses: Addresses, limit: int = 64) -> list[str | None]:
        """NUL-terminated printable ASCII at each address; None where there is none within `limit` bytes."""
        rows, readable = self.read_rows(addresses, limit)
        for row in np.flatnonzero(~readable & (addresses > _PAGE)):  # the string may end just before its mapping does
            rest = _PAGE - int(addresses[row]) % _PAGE
            if rest < limit:
                short, ok = self.read_rows(addresses[row : row + 1], rest)
                rows[row, :rest] = short[0]
                readable[row] = ok[0]
        return [_text(row.tobytes()) if ok else None for row, ok in zip(rows, readable, strict=True)]

    def _explain(self, code: int) -> None:
        """Raise for errors that are about the process; return for those that are about one address."""
        if code == errno.ESRCH:
            raise MemoryGone(f"process {self.pid} has ended")
        if code == errno.EPERM:
            raise PermissionDeniedError(
                f"not permitted to read the memory of process {self.pid} (CAP_SYS_PTRACE is missing)",
                hint=f"sudo flowprof attach {self.pid}",
            )
        if code != errno.EFAULT:
            raise Unreadable(f"reading process {self.pid} failed: {os.strerror(code)}")


def _text(raw: bytes) -> str | None:
    """The printable ASCII text before the first NUL; None when unterminated or not text."""
    text, end, _ = raw.partition(b"\0")
    return text.decode("ascii") if end and all(32 <= byte < 127 for byte in text) else None
