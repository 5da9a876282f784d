"""Where a stripped file's separate debug file may be, and whether a found one belongs to it.

Looked up as gdb does: by build-id in `DIR/.build-id/xx/yyyy.debug`, then by the name in `.gnu_debuglink` beside the
file, in `.debug/` beside it, and below `DIR` at the file's own path. DIR is each `--debug-dir`, then the target's
/usr/lib/debug, then ours. A debug file is accepted only with the same build-id, or, where there is none, with the CRC
that the link states.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

SYSTEM_DIR = "/usr/lib/debug"


class DebugLink(NamedTuple):
    """`.gnu_debuglink`: a file name and the CRC-32 of that file."""

    name: str
    crc: int


def parse_link(data: bytes, order: str) -> DebugLink | None:
    """The link, or None where the section is malformed or names a path instead of a file."""
    end = data.find(b"\0")
    at = (end + 4) & ~3
    name = data[:end].decode("utf-8", "replace")
    if end <= 0 or len(data) < at + 4 or "/" in name or name in (".", ".."):
        return None
    return DebugLink(name, struct.unpack_from(order + "I", data, at)[0])


def build_id_note(data: bytes, order: str) -> str | None:
    """The build-id in a run of ELF notes."""
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from(order + "III", data, at)
        start = at + 12 + (name_size + 3 & ~3)
        if kind == 3 and data[at + 12 : at + 16] == b"GNU\0" and 0 < size <= 64 and start + size <= len(data):
            return data[start : start + size].hex()
        at = start + (size + 3 & ~3)
    return None


def candidates(
    path: str, build_id: str | None, link: DebugLink | None, debug_dirs: tuple[str, ...], root: str
) -> list[str]:
    """Paths to try, in order."""
    dirs = [*debug_dirs, *([root + SYSTEM_DIR] if root else []), SYSTEM_DIR]
    found = [f"{d}/.build-id/{build_id[:2]}/{build_id[2:]}.debug" for d in dirs if build_id and len(build_id) > 2]
    if link is not None:
        folder = str(Path(path).parent)
        inside = folder[len(root) :] if root and folder.startswith(root + "/") else folder
        found += [f"{folder}/{link.name}", f"{folder}/.debug/{link.name}"]
        found += [f"{d}/{name}" for d in dirs for name in (f"{inside.lstrip('/')}/{link.name}", link.name)]
    return found


def belongs(candidate: str, found_id: str | None, build_id: str | None, link: DebugLink | None) -> bool:
    """Whether the file at `candidate` was made from the same link as the stripped one."""
    if build_id is not None and found_id is not None:
        return build_id == found_id
    if link is None:
        return False
    crc = 0
    try:
        with open(candidate, "rb") as file:
            while piece := file.read(1 << 20):
                crc = zlib.crc32(piece, crc)
    except OSError:
        return False
    return crc == link.crc
