"""Where functions begin and end in a file without symbols: from the unwind information, which `strip` must leave.

`.eh_frame_hdr` holds a sorted table of (function start, address of its FDE). The usual encoding (signed 32-bit
offsets from the header) is read as one numpy array; a function's length comes from its FDE when that FDE says the
same start, and otherwise reaches to the next start. Static executables have no such table: there the FDEs themselves
are walked. Format: Linux Standard Base, "Exception Frames", section 10.6.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from flowprof.profiler.binaries.elf import ElfFile

_POINTERS = {  # DW_EH_PE encoding → struct format, relative to its own place
    0x1B: ("<i", True), 0x0B: ("<i", False), 0x00: ("<q", False), 0x1C: ("<q", True),
}  # fmt: skip
MAX_ADDRESS = 1 << 62
MAX_FUNCTIONS = 2_000_000
_UDATA4, _SDATA4_DATAREL = 0x03, 0x3B


@dataclass(frozen=True, slots=True)
class FunctionTable:
    """Function starts in rising order, their sizes in bytes, and the addresses of their FDEs."""

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    entries: NDArray[np.int64]

    def bounds(self, address: int) -> tuple[int, int] | None:
        """(start, end) of the function that holds the address."""
        i = self._index(address)
        return None if i is None else (int(self.starts[i]), int(self.starts[i]) + int(self.sizes[i]))

    def entry(self, address: int) -> tuple[int, int] | None:
        """(start of the function that holds the address, address of its FDE)."""
        i = self._index(address)
        return None if i is None else (int(self.starts[i]), int(self.entries[i]))

    def _index(self, address: int) -> int | None:
        if not 0 <= address < 1 << 63:
            return None
        i = int(np.searchsorted(self.starts, address, side="right")) - 1
        return i if i >= 0 and address < int(self.starts[i]) + int(self.sizes[i]) else None


EMPTY = FunctionTable(*(np.zeros(0, np.int64) for _ in range(3)))


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
    return FunctionTable(starts, np.maximum(sizes, 0), frames)


def _stated_sizes(
    elf: ElfFile, starts: NDArray[np.int64], frames: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Each FDE's function length, and where its pc_begin (pc-relative, 4 bytes, as is usual) agrees with the table."""
    nothing = np.zeros(len(starts), np.int64), np.zeros(len(starts), np.bool_)
    low, high = int(np.min(frames)), int(np.max(frames)) + 16
    segment = next((s for s in elf.segments if s.address <= low and high <= s.address + s.file_size), None)
    if segment is None or high - low > 1 << 28:
        return nothing
    data = np.frombuffer(elf.read(low, high - low), np.uint8)
    fields = data[(frames - low)[:, None] + np.arange(8, 16)].copy().view("<i4").astype(np.int64)
    return fields[:, 1] & 0xFFFFFFFF, frames + 8 + fields[:, 0] == starts


def walk_frames(data: bytes, address: int) -> FunctionTable:
    """The functions of an `.eh_frame` section, read entry by entry; entries in unusual encodings are left out."""
    forms: dict[int, tuple[str, bool] | None] = {}
    found: list[tuple[int, int, int]] = []
    at = 0
    while at + 8 <= len(data) and len(found) < MAX_FUNCTIONS:
        length, cie = struct.unpack_from("<II", data, at)
        if length in (0, 0xFFFFFFFF):  # the end; or the 64-bit form, which no compiler emits
            break
        if cie == 0:
            forms[at] = _pointer_form(data[at + 8 : min(at + 4 + length, at + 264)])
        else:
            form = forms.get(at + 4 - cie)
            if form is not None and at + 8 + 2 * struct.calcsize(form[0]) <= len(data):
                start = struct.unpack_from(form[0], data, at + 8)[0] + (address + at + 8 if form[1] else 0)
                size = struct.unpack_from(form[0].upper(), data, at + 8 + struct.calcsize(form[0]))[0]
                if 0 <= start < MAX_ADDRESS and 0 < size < MAX_ADDRESS:
                    found.append((start, size, address + at))
        at += 4 + length
    if not found:
        return EMPTY
    return FunctionTable(*np.ascontiguousarray(np.array(sorted(found), np.int64).T))


def _pointer_form(cie: bytes) -> tuple[str, bool] | None:
    """How the FDEs of a CIE write a function's start: (struct format, relative to its own place); None if unusual."""
    augmentation, _, rest = cie[1:].partition(b"\0")
    if not augmentation.startswith(b"z"):
        return ("<q", False) if not augmentation else None
    for _ in range(4):  # code and data alignment, return register, length of the augmentation data: LEB128 numbers
        rest = rest[next((i for i, b in enumerate(rest) if b < 128), len(rest)) + 1 :]
    for letter in augmentation[1:].decode("latin-1"):
        if letter == "R":
            return _POINTERS.get(rest[0] if rest else -1)
        if letter == "L":
            rest = rest[1:]
        elif letter == "P":
            rest = rest[1 + {0: 8, 2: 2, 3: 4, 4: 8}.get(rest[0] & 7 if rest else 0, 8) :]
        elif letter not in "SB":
            return None
    return ("<q", False)


def _end_of_code(elf: ElfFile, address: int) -> int:
    for segment in elf.segments:
        if segment.address <= address < segment.address + segment.file_size:
            return segment.address + segment.file_size
    return address
