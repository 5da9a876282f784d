"""The bytes of a file that somebody else wrote: decompressed when it is gzip, never more than asked for, within limits.

A file may be hostile: what it expands to is bounded (MAX_BYTES), it must be a plain file, and a gzip stream that ends
early or is damaged is an error of its own.
"""

from __future__ import annotations

import os
import zlib

from flowprof.profiler.errors import RecordingError
from flowprof.profiler.untrusted_file import open_named

HEAD = 64 << 10  # what a format is told by
MAX_BYTES = 32 << 30  # decompressed
_BLOCK = 1 << 20  # compressed bytes that are read at once
_GZIP = b"\x1f\x8b"


class Source:
    """A context manager. `head` is the first HEAD bytes (decompressed), which `read` gives again."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open_named(path, RecordingError, "flowprof import FILE -o RECORDING.duckdb")
        self.size_bytes = os.fstat(self._file).st_size
        self.given = 0  # bytes that `read` has given, and that were made of them
        self._pending = b""  # compressed
        self._inflate = None if os.pread(self._file, 2, 0) != _GZIP else _inflater()
        self.compressed = self._inflate is not None
        self.head = self._head = self._next(HEAD)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end. Raises RecordingError."""
        data = b""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
        if len(data) < size:
            data += self._next(size - len(data))
        self.count(len(data))
        return data

    def count(self, size: int) -> None:
        """Bytes that were made of the file's. Raises RecordingError when there are too many of them."""
        self.given += size
        if self.given > MAX_BYTES:
            raise RecordingError(f"{self.path} expands to more than {MAX_BYTES >> 30} GiB", "import a shorter trace")

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self, size: int) -> bytes:
        try:
            return self._raw(size) if self._inflate is None else self._inflated(self._inflate, size)
        except OSError as error:
            raise RecordingError(f"cannot read {self.path}: {error.strerror}") from error
        except zlib.error as error:
            raise RecordingError(f"{self.path} is damaged: {error}", "copy it again") from error

    def _raw(self, size: int) -> bytes:
        parts = []
        while size > 0 and (part := os.read(self._file, size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _inflated(self, inflate: zlib._Decompress, size: int) -> bytes:
        parts = []
        while size > 0:
            if inflate.eof:  # a file may be several streams in a row
                self._pending = inflate.unused_data or os.read(self._file, _BLOCK)
                if self._pending[:2] != _GZIP:  # nothing more, or the padding of some writers
                    break
                self._inflate = inflate = _inflater()
            self._pending = self._pending or os.read(self._file, _BLOCK)
            if not self._pending:
                raise RecordingError(f"{self.path} is truncated: its gzip stream does not end", "copy it again")
            part = inflate.decompress(self._pending, size)
            self._pending = inflate.unconsumed_tail
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _inflater() -> zlib._Decompress:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)
