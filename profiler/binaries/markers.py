"""Does a binary hold an engine? A cheap first look: whether a name of the engine's is among its strings.

Only string tables and constants are read, in pieces: a library of 106 MB has 9 MB of them, the rest is code and debug
information, which may also speak of what the file does not hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

from flowprof.profiler.binaries.elf_image import SHT_NOBITS, SHT_STRTAB, ElfError, ElfImage

_PIECE = 1 << 24
_CONSTANTS = (".rodata", ".lrodata")


def contains(path: str, marker: bytes) -> bool:
    """Whether the strings of the ELF file at `path` contain `marker`; False when it is none, or cannot be read."""
    try:
        now = os.stat(path)
    except (OSError, ValueError):
        return False
    return _contains(path, marker, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


@lru_cache(maxsize=4096)  # asked for again whenever a library is loaded
def _contains(path: str, marker: bytes, *_identity: int) -> bool:
    try:
        with ElfImage(path) as image:
            return any(marker in piece for piece in _strings(image, len(marker) - 1))
    except ElfError:
        return False


def _strings(image: ElfImage, overlap: int) -> Iterator[bytes]:
    """Where names may lie; in a file without section headers that is all that is loaded and no code."""
    places = [
        (section.offset, section.size)
        for section in image.sections
        if section.type == SHT_STRTAB or (section.name.startswith(_CONSTANTS) and section.type != SHT_NOBITS)
    ] or [(segment.offset, segment.file_size) for segment in image.segments if not segment.executable]
    for offset, size in places:
        end = min(offset + size, image.size)
        for start in range(offset, end, _PIECE):
            yield image.bytes_at(start, min(_PIECE + overlap, end - start), "its strings")
