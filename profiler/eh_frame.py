"""Where functions begin and end in a file without symbols: from the unwind information, which `strip` must leave.

`.eh_frame_hdr` holds a sorted table of (function start, address of its FDE). The usual encoding (signed 32-bit
offsets from the header) is read as one numpy array; a function's length comes from its FDE when that FDE says the
same start, and otherwise reaches to the next start. Format: Linux Standard Base, "Exception Frames", section 10.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from flowprof.profiler.elf import ElfFile

MAX_FUNCTIONS = 2_000_000
_UDATA4, _SDATA4_DATAREL = 0x03, 0x3B


@dataclass(frozen=True, slots=True)
class FunctionTable:
    """Function starts in rising order and their sizes in bytes."""

    starts: np.ndarray[Any, np.dtype[np.int64]]
    sizes: np.ndarray[Any, np.dtype[np.int64]]

    def bounds(self, address: int) -> tuple[int, int] | None:
        """(start, end) of the function that holds the address."""
        if not 0 <= address < 1 << 63:
            return None
        i = int(np.searchsorted(self.starts, address, side="right")) - 1
        if i < 0:
            return None
        start = int(self.starts[i])
        end = start + int(self.sizes[i])
        return (start, end) if address < end else None


EMPTY = FunctionTable(np.zeros(0, np.int64), np.zeros(0, np.int64))


def read_table(elf: ElfFile, address: int, size: int) -> FunctionTable:
    """The table of the `.eh_frame_hdr` at an address; empty when there is none or its encoding is an unusual one."""
    header = elf.read(address, min(size, 12))
    if len(header) < 12 or header[0] != 1 or header[2] != _UDATA4 or header[3] != _SDATA4_DATAREL:
        return EMPTY
    count = min(int.from_bytes(header[8:12], "little"), (size - 12) // 8, MAX_FUNCTIONS)
    pairs = np.frombuffer(elf.read(address + 12, count * 8), "<i4").reshape(-1, 2).astype(np.int64) + address
    if not count or (np.diff(pairs[:, 0]) < 0).any():
        return EMPTY
    starts, frames = np.ascontiguousarray(pairs[:, 0]), pairs[:, 1]
    following = np.append(starts[1:], starts[-1])
    sizes = following - starts
    stated, agrees = _stated_sizes(elf, starts, frames)
    limit = np.array([_end_of_code(elf, int(starts[-1]))])
    sizes = np.minimum(np.where(agrees, stated, sizes), np.append(following[:-1], limit) - starts)
    return FunctionTable(starts, np.maximum(sizes, 0))


def _stated_sizes(
    elf: ElfFile, starts: np.ndarray[Any, np.dtype[np.int64]], frames: np.ndarray[Any, np.dtype[np.int64]]
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Each FDE's function length, and where its pc_begin (pc-relative, 4 bytes, as is usual) agrees with the table."""
    nothing = np.zeros(len(starts), np.int64), np.zeros(len(starts), np.bool_)
    low, high = int(frames.min()), int(frames.max()) + 16
    segment = next((s for s in elf.segments if s.address <= low and high <= s.address + s.file_size), None)
    if segment is None or high - low > 1 << 28:
        return nothing
    data = np.frombuffer(elf.read(low, high - low), np.uint8)
    fields = data[(frames - low)[:, None] + np.arange(8, 16)].copy().view("<i4").astype(np.int64)
    return fields[:, 1] & 0xFFFFFFFF, frames + 8 + fields[:, 0] == starts


def _end_of_code(elf: ElfFile, address: int) -> int:
    for segment in elf.segments:
        if segment.address <= address < segment.address + segment.file_size:
            return segment.address + segment.file_size
    return address
