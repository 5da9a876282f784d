"""Which file lies at an address: of a written list, and of this process."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from flowprof.profiler.errors import NotFoundError
from flowprof.profiler.record import mapped_files
from flowprof.profiler.record.mapped_files import SWAP, MappedFiles

MAPS = b"""1000-3000 r--s 00000000 fe:00 12 /models/m.gguf
3000-4000 rw-p 00000000 00:00 0
5000-6000 rw-p 00000000 00:00 0 [heap]
ffff0000-ffff1000 r-xp 00000000 fe:00 13 /usr/lib/lib with spaces.so (deleted)
fffff"""


def at(*addresses: int) -> np.ndarray:
    return np.array(addresses, np.uint64)


def test_the_file_at_an_address() -> None:
    files = MappedFiles(1, lambda _: MAPS)
    assert files.names(at(0x1000, 0x2FFF, 0x3000, 0x5800, 0x4000, 0xFFF, 0xFFFF0010)) == [
        "/models/m.gguf", "/models/m.gguf", SWAP, SWAP, None, None, "/usr/lib/lib with spaces.so (deleted)"
    ]  # fmt: skip
    assert files.names(at()) == []


def test_it_is_asked_again_but_not_for_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, now = [], [100.0]
    monkeypatch.setattr(mapped_files.time, "monotonic", lambda: now[0])

    def lines(pid: int) -> bytes:
        asked.append(pid)
        return (
            MAPS
            if len(asked) < 2
            else MAPS.replace(b"5000-6000 rw-p 00000000 00:00 0 [heap]", b"4000-6000 r--s 0 0 0 /new")
        )

    files = MappedFiles(7, lines)
    assert files.names(at(0x1000, 0x1000)) == ["/models/m.gguf"] * 2
    assert files.names(at(0x4000)) == [None] and asked == [7]
    now[0] += 2
    assert files.names(at(0x4000, 0x1000)) == ["/new", "/models/m.gguf"] and asked == [7, 7]


def test_a_process_that_is_gone() -> None:
    def gone(_: int) -> bytes:
        raise NotFoundError("gone")

    assert MappedFiles(1, gone).names(at(0x1000)) == [None]


def test_of_this_process(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(8192))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        address, own = view.ctypes.data, np.zeros(10)
        found = MappedFiles(os.getpid())
        assert found.names(at(address + 5000, own.ctypes.data)) == [str(path), SWAP]
        del view
