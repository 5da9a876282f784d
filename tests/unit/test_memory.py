"""Reading a process's memory: whole, in rows, past the end of a mapping, of nobody."""

import ctypes
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
from flowprof.profiler.errors import PermissionDeniedError
from flowprof.profiler.memory import MAX_READ, Memory, MemoryGone, Unreadable


@pytest.fixture
def own():
    return Memory(os.getpid())


@pytest.fixture
def page():
    """The last readable page before an unmapped one."""
    area = mmap.mmap(-1, 3 * 4096)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + 4096), ctypes.c_size_t(8192), 0) == 0
    yield start
    libc.mprotect(ctypes.c_void_p(start + 4096), ctypes.c_size_t(8192), 3)


def test_read(own):
    text = ctypes.create_string_buffer(b"forty-two bytes of nothing in particular")
    at = ctypes.addressof(text)
    assert own.read(at, len(text.raw)) == text.raw
    assert (own.read(at, 5), own.read(at + 6, 3)) == (b"forty", b"two")
    assert own.read_words(at, 1)[0] == int.from_bytes(b"forty-tw", "little")


@pytest.mark.parametrize("address", [0, 8, 1 << 46, (1 << 64) - 8])
def test_nothing_there(own, address):
    with pytest.raises(Unreadable, match="no readable 16 bytes"):
        own.read(address, 16)


@pytest.mark.parametrize("size", [0, -1, MAX_READ + 1])
def test_sizes_are_bounded(own, size):
    with pytest.raises(Unreadable, match="limit"):
        own.read(4096, size)


def test_a_piece_that_ends_behind_the_mapping_is_not_read(own, page):
    assert own.read(page + 4088, 8) == bytes(8)
    with pytest.raises(Unreadable):
        own.read(page + 4088, 9)


def test_rows_go_on_behind_unreadable_ones(own, page):
    numbers = np.arange(5000, dtype="<u8")
    addresses = np.array([numbers.ctypes.data + 8 * at for at in range(5000)], dtype=np.uint64)
    addresses[[0, 7, 8, 1023, 1024, 4999]] = [0, 8, page + 4092, 1 << 60, 0, page + 4096]
    rows, readable = own.read_rows(addresses, 8)
    assert np.flatnonzero(~readable).tolist() == [0, 7, 8, 1023, 1024, 4999]
    words = rows.view("<u8")[:, 0]
    assert (words[readable] == numbers[readable]).all()
    assert (words[~readable] == 0).all()


def test_no_rows(own):
    rows, readable = own.read_rows(np.empty(0, dtype=np.uint64), 8)
    assert rows.shape == (0, 8) and readable.shape == (0,)


def test_strings(own, page):
    ctypes.memmove(page + 4090, b"tail\0", 5)
    texts = ctypes.create_string_buffer(b"name\0" + b"con\ttrol\0" + b"\xc3\xa4\0" + b"x" * 100)
    at = ctypes.addressof(texts)
    addresses = np.array([at, at + 5, at + 14, at + 17, 0, page + 4090, page + 5000], dtype=np.uint64)
    assert own.read_strings(addresses) == ["name", None, None, None, None, "tail", None]


def test_a_process_that_ended():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(MemoryGone, match=f"process {child.pid} has ended"):
        Memory(child.pid).read(4096, 8)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_without_rights():
    with pytest.raises(PermissionDeniedError, match="CAP_SYS_PTRACE"):
        Memory(1).read(4096, 8)
