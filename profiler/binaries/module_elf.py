"""The ELF file behind a module of a process, and where the process has it."""

from __future__ import annotations

import os
from functools import lru_cache

from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.target import Module


def open_elf(module: Module, debug_dirs: tuple[str, ...] = ()) -> ElfFile:
    """The module's file as the target maps it. One that was opened before is the same: its symbols are read once."""
    try:
        now = os.stat(module.open_path)
    except OSError:
        return ElfFile(module.open_path, debug_dirs)  # which says what is wrong
    return _opened(module.open_path, debug_dirs, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


@lru_cache(maxsize=8)
def _opened(path: str, debug_dirs: tuple[str, ...], *_identity: int) -> ElfFile:
    return ElfFile(path, debug_dirs)


def load_bias(elf: ElfFile, module: Module) -> int | None:
    """What is added to the file's addresses in the process; None where that cannot be told."""
    mapping = module.mappings[0]
    for segment in elf.segments:
        start = segment.offset & ~0xFFF
        if segment.executable and start <= mapping.offset < segment.offset + segment.file_size:
            return mapping.start - mapping.offset + segment.offset - segment.address
    return None
