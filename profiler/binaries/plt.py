"""PLT stubs: which address is a jump to which imported (or own, but interposable) function.

A stub loads its target from a GOT slot; the slot's relocation names the symbol. Instead of trusting section layouts
(lazy, IBT with `.plt.sec`, `.plt.got`, BTI …), the stub's own load is decoded: x86-64 `jmp *slot(%rip)`, with
`endbr64` or `bnd` before it; AArch64 `adrp x16; ldr x17, [x16, …]`, with `bti c` before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from flowprof.profiler.binaries.elf import ElfFile

SECTIONS = (".plt", ".plt.sec", ".plt.got", ".iplt")
MAX_SECTIONS, MAX_SIZE = 8, 1 << 26
# R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT; R_AARCH64_GLOB_DAT, R_AARCH64_JUMP_SLOT
_SLOT_KINDS = {"x86-64": (6, 7), "aarch64": (1025, 1026)}
_BTI_C = 0xD503245F

Array = np.ndarray[Any, np.dtype[Any]]


def stubs(elf: ElfFile) -> dict[int, str]:
    """Stub address → symbol name, of all PLT sections."""
    if elf.machine not in _SLOT_KINDS or elf.bits != 64:
        return {}
    names = slots(elf)
    found: dict[int, str] = {}
    for section in [s for s in elf.sections if s.name in SECTIONS][:MAX_SECTIONS]:
        if section.size > MAX_SIZE or not elf.executable(section.address):
            continue
        code = elf.section_bytes(section)
        loads = _x86(code, section.address) if elf.machine == "x86-64" else _aarch64(code, section.address)
        for stub, slot in loads:
            if slot in names:
                found[stub] = names[slot].decode("utf-8", "replace")
    return found


def slots(elf: ElfFile) -> dict[int, bytes]:
    """GOT slot → the name that its relocation puts there; what a -fno-plt build calls through."""
    found: dict[int, bytes] = {}
    for records, names in elf.relocations():
        kinds = records["info"] & 0xFFFFFFFF
        chosen = records[np.isin(kinds, _SLOT_KINDS[elf.machine])]
        indices = (chosen["info"] >> np.uint64(32)).tolist()
        for slot, index in zip(chosen["offset"].tolist(), indices, strict=True):
            if 0 < index < len(names):
                found[slot] = names[index]
    return found


def _x86(code: bytes, address: int) -> list[tuple[int, int]]:
    found = []
    at = code.find(b"\xff\x25")
    while 0 <= at <= len(code) - 6:
        slot = address + at + 6 + int.from_bytes(code[at + 2 : at + 6], "little", signed=True)
        start = at - 1 if code[at - 1 : at] == b"\xf2" else at
        start = start - 4 if code[max(start - 4, 0) : start] == b"\xf3\x0f\x1e\xfa" else start
        found.append((address + start, slot))
        at = code.find(b"\xff\x25", at + 6)
    return found


def _aarch64(code: bytes, address: int) -> list[tuple[int, int]]:
    words = np.frombuffer(code[: len(code) & ~3], "<u4")
    if len(words) < 2:
        return []
    loads = (words[:-1] & 0x9F00001F == 0x90000010) & (words[1:] & 0xFFC003FF == 0xF9400211)
    found = []
    for i in np.flatnonzero(loads).tolist():
        adrp, ldr = int(words[i]), int(words[i + 1])
        pages = (adrp >> 5 & 0x7FFFF) << 2 | adrp >> 29 & 3
        pages -= (pages & 1 << 20) << 1
        slot = (address + 4 * i & ~0xFFF) + (pages << 12) + (ldr >> 10 & 0xFFF) * 8
        start = i - 1 if i and int(words[i - 1]) == _BTI_C else i
        found.append((address + 4 * start, slot))
    return found
