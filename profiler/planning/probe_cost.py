"""What a uprobe on an instruction costs, and which instructions the kernel refuses.

A probed instruction still has to happen. The kernel either does it itself in the trap (*emulated*: one trap) or runs
a copy out of line under single-stepping (two traps: several times as dear, `flowprof doctor` measures it). The rules
follow the kernel's arch/x86/kernel/uprobes.c and arch/arm64/kernel/probes/decode-insn.c:

x86-64 emulates `push r64`, `0x90` nops, `call rel32`, `jmp`, `jcc`; `0f 1f` nops from 6.18. It refuses segment and
lock prefixes, traps and privileged instructions. Refused here though the kernel takes them: VEX and EVEX instructions
(the kernel looks at the opcode behind the prefix and takes some for a `jcc`), repeated string instructions (one hit
per step), `xchg r8d, eax` (taken for a nop).

AArch64 simulates immediate and register branches, `adr`, `adrp`, literal loads of general registers, and `nop` from
6.13. (A `stp x29, x30` push was proposed with it and left out: it is stepped.) It refuses exclusive and other literal
loads, traps, `msr`, and hints other than nop, `bti` and the signing `pac*`.
"""

from __future__ import annotations

from enum import StrEnum

Kernel = tuple[int, int]

OLDEST_KERNEL: Kernel = (5, 15)
"""The oldest kernel that flowprof records on: what it emulates, every later one does."""


class CostClass(StrEnum):
    """How a probe hit is carried out."""

    EMULATED = "emulated"
    SINGLE_STEPPED = "single-stepped"
    RETURN = "return"


_X86_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_X86_BAD_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\xf0")
_X86_BAD = frozenset(
    b"\x06\x07\x0e\x16\x17\x1e\x1f\x27\x2f\x37\x3f\x60\x61\x62\x6c\x6d\x6e\x6f\x82\x8e\x9a\xc4\xc5\xcc\xcd\xce\xcf"
    b"\xd4\xd5\xd6\xe4\xe5\xe6\xe7\xea\xec\xed\xee\xef\xf1\xf4\xfa\xfb"
)
_X86_BAD_0F = frozenset(b"\x00\x01\x05\x06\x07\x08\x09\x0b\x0c\x30\x34\x35\x37\x78\x79\xae")
_X86_STRING = frozenset(b"\xa4\xa5\xa6\xa7\xaa\xab\xac\xad\xae\xaf")
_A64_HINTS = frozenset((0, 7, 8, 10, 24, 25, 26, 27, 32, 34, 36, 38))


def probe_cost(machine: str, data: bytes, kernel: Kernel = OLDEST_KERNEL) -> CostClass | None:
    """The cost class of a probe on this instruction's bytes; None where it cannot or must not be probed."""
    if machine == "x86-64":
        return _x86(data, kernel)
    if machine == "aarch64" and len(data) == 4:
        return _aarch64(int.from_bytes(data, "little"), kernel)
    return None


def _x86(data: bytes, kernel: Kernel) -> CostClass | None:
    at = 0
    while at < len(data) and data[at] in _X86_PREFIXES:
        at += 1
    prefixes = set(data[:at])
    rex = data[at] if at < len(data) and data[at] & 0xF0 == 0x40 else 0
    opcode = data[at + bool(rex) :]
    if not opcode or prefixes & _X86_BAD_PREFIXES or opcode[0] in _X86_BAD:
        return None
    first, second = opcode[0], opcode[1] if len(opcode) > 1 else 0
    if (prefixes & {0xF2, 0xF3} and first in _X86_STRING) or (first == 0x0F and second in _X86_BAD_0F):
        return None
    if first == 0x8F and second & 0x38:  # XOP; pop has 0 here
        return None
    if first == 0x90:
        return None if rex & 1 else CostClass.EMULATED
    if first in (0xE8, 0xE9, 0xEB) or 0x70 <= first <= 0x7F or (first == 0x0F and second & 0xF0 == 0x80):
        return None if 0x66 in prefixes else CostClass.EMULATED
    if 0x50 <= first <= 0x57 and (len(data) == 1 or (len(data) == 2 and rex == 0x41)):
        return CostClass.EMULATED
    if first == 0x0F and second == 0x1F and kernel >= (6, 18):
        return CostClass.EMULATED
    return CostClass.SINGLE_STEPPED


def _aarch64(word: int, kernel: Kernel) -> CostClass | None:
    simulated = (
        word & 0x7C000000 == 0x14000000  # b, bl
        or word & 0xFF000010 == 0x54000000  # b.cond
        or word & 0x7E000000 in (0x34000000, 0x36000000)  # cbz, cbnz, tbz, tbnz
        or word & 0x1F000000 == 0x10000000  # adr, adrp
        or word & 0xFFFFFC1F in (0xD61F0000, 0xD63F0000, 0xD65F0000)  # br, blr, ret
        or word & 0xBF000000 == 0x18000000  # ldr w, x (literal)
        or word & 0xFF000000 == 0x98000000  # ldrsw (literal)
    )
    if simulated:
        return CostClass.EMULATED
    if word & 0xFFFFF01F == 0xD503201F:
        hint = word >> 5 & 0x7F
        if hint == 0 and kernel >= (6, 13):
            return CostClass.EMULATED
        return CostClass.SINGLE_STEPPED if hint in _A64_HINTS else None
    refused = (
        word & 0x3B000000 == 0x18000000  # other literal loads and prefetches
        or word & 0x3F800000 == 0x08000000  # exclusive loads and stores
        or word & 0xFF000000
        in (0xD4000000, 0xD6000000, 0xD7000000, 0x54000000)  # traps; authenticated branches; bc.cond
        or word & 0xFFF00000 == 0xD5100000  # msr (register)
        or word & 0xFFF8F01F == 0xD500401F  # msr (immediate)
        or word & 0xFFFFFFE0 == 0xD53B4220  # mrs of the interrupt mask
        or word & 0x3B200C00 == 0x19000400  # memory copy and set: they run in stages
        or word >> 16 == 0  # udf
    )
    return None if refused else CostClass.SINGLE_STEPPED
