"""The code of a file that a target has mapped: what stacks need of it, read once."""

from __future__ import annotations

import contextlib
import os
from functools import cached_property, lru_cache

from flowprof.profiler.binaries.cfi import CallFrames, Row
from flowprof.profiler.binaries.elf import ElfError, ElfFile
from flowprof.profiler.binaries.symbols import Symbol, SymbolTable
from flowprof.profiler.target import Module

_MAX_OPEN = 256  # files
_LONGEST_CALL = 7  # bytes


class ModuleCode:
    """One file. Addresses are as its own headers count; a file that cannot be read knows nothing."""

    def __init__(self, module: Module) -> None:
        try:
            self.elf: ElfFile | None = ElfFile(_path(module), root=f"/proc/{module.pid}/root")
            self._frames: CallFrames | None = CallFrames(self.elf)
        except ElfError:
            self.elf = self._frames = None

    def address(self, offset: int) -> int | None:
        """The address of a place in the file; None: no code is there."""
        try:
            return self.elf.address_of(offset) if self.elf else None
        except ElfError:
            return None

    def row(self, address: int) -> Row | None:
        """How to leave the function, at this instruction; None: the file does not say."""
        try:
            return self._frames.at(address) if self._frames else None
        except ElfError:
            return None

    def symbol(self, address: int) -> Symbol | None:
        """The symbol that covers the address."""
        return self._symbols.at(address) if self._symbols else None

    @cached_property
    def _symbols(self) -> SymbolTable | None:
        try:
            return self.elf.symbols() if self.elf else None
        except ElfError:
            return None

    def call_ending_at(self, last: int) -> tuple[bool, int | None]:
        """Whether a call instruction's last byte is here; and where it goes, where it says so itself."""
        try:
            code = self.elf.read(last + 1 - _LONGEST_CALL, _LONGEST_CALL) if self.elf else b""
            if code[2:3] == b"\xe8":
                target = last + 1 + int.from_bytes(code[3:], "little", signed=True)
                if self.elf and self.elf.executable(target):
                    return True, target
        except ElfError:
            return False, None
        return any(_is_indirect_call(code[-size:]) for size in range(2, len(code) + 1)), None


def _path(module: Module) -> str:
    """The way through the target's root; where the target has ended, and the file is still the same, its own."""
    with contextlib.suppress(OSError):
        if not os.path.exists(module.open_path) and os.stat(module.path).st_ino == module.inode:
            return module.path
    return module.open_path


@lru_cache(maxsize=_MAX_OPEN)
def code_of(module: Module) -> ModuleCode:
    """The module's code, read once."""
    return ModuleCode(module)


def _is_indirect_call(code: bytes) -> bool:
    """Whether these bytes are one `call *…` (FF /2), as long as its ModRM and SIB bytes say."""
    if code[0] != 0xFF or code[1] >> 3 & 7 != 2:
        return False
    mode, base = code[1] >> 6, code[1] & 7
    size = 2 + {0: 0, 1: 1, 2: 4, 3: 0}[mode]
    if mode != 3 and base == 4:
        size += 1 + (4 if mode == 0 and len(code) > 2 and code[2] & 7 == 5 else 0)
    if mode == 0 and base == 5:
        size += 4
    return len(code) == size
