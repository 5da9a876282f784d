"""Machine code as instructions: the only module that knows capstone.

Two forms: `instructions` with the registers each instruction writes (slow, for the few of a prologue), and `sweep`, a
linear pass over a whole function that gives text only (about 0.4 million instructions per second) and steps over
bytes it cannot decode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import capstone as cs

SUPPORTED = ("x86-64", "aarch64")

_X86_FAMILIES = {
    **{f"r{x}": (f"e{x}", x, f"{x[0]}l", f"{x[0]}h") for x in ("ax", "bx", "cx", "dx")},
    **{f"r{x}": (f"e{x}", x, f"{x}l") for x in ("si", "di", "bp", "sp")},
    **{f"r{n}": (f"r{n}d", f"r{n}w", f"r{n}b") for n in range(8, 16)},
}
_X86_WHOLE = {part: whole for whole, parts in _X86_FAMILIES.items() for part in parts}
_X86_READ_ONLY = {
    "cmp",
    "test",
    "push",
    "bt",
    "nop",
    "jmp",
    "call",
    "comiss",
    "comisd",
    "ucomiss",
    "ucomisd",
    "ptest",
    "vptest",
}
_A64_COMPARES = ("cmp", "cmn", "tst", "ccmp", "ccmn")
_A64_READ_ONLY = ("st", "cmp", "cmn", "tst", "ccmp", "ccmn", "cb", "tb", "prfm", "fcmp", "br", "bl", "ret")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction. `writes` holds whole registers (`rdi` for `edi`, `x0` for `w0`)."""

    address: int
    data: bytes
    mnemonic: str
    operands: str
    writes: frozenset[str]

    @property
    def text(self) -> str:
        """As a disassembler prints it."""
        return f"{self.mnemonic} {self.operands}".strip()

    @property
    def end(self) -> int:
        """Address of the next instruction."""
        return self.address + len(self.data)


@lru_cache
def _decoder(machine: str, detail: bool) -> Any:
    decoder = (
        cs.Cs(cs.CS_ARCH_X86, cs.CS_MODE_64)
        if machine == "x86-64"
        else cs.Cs(cs.CS_ARCH_ARM64, cs.CS_MODE_LITTLE_ENDIAN)
    )
    decoder.detail = detail
    decoder.skipdata = not detail
    return decoder


def whole_register(machine: str, name: str) -> str:
    """The 64-bit register that a register is part of."""
    if machine == "x86-64":
        return _X86_WHOLE.get(name, name)
    return {"fp": "x29", "lr": "x30"}.get(name, f"x{name[1:]}" if name[:1] == "w" and name[1:].isdigit() else name)


def instructions(machine: str, code: bytes, address: int, count: int) -> Iterator[Instruction]:
    """At most `count` instructions from the beginning of the code; ends early at bytes that are no instruction."""
    try:
        for i in _decoder(machine, True).disasm(code, address, count):
            writes = frozenset(whole_register(machine, name) for name in _written(machine, i) if name)
            yield Instruction(i.address, bytes(i.bytes), i.mnemonic, i.op_str, writes)
    except cs.CsError:
        return


def _written(machine: str, i: Any) -> set[str]:
    """What it writes, by capstone's list and by position: the list has gaps, and a missed write costs an argument."""
    verb = i.mnemonic.split()[-1]
    x86 = machine == "x86-64"
    listed = {i.reg_name(r) for r in i.regs_access()[1]}
    if verb in _A64_COMPARES and not x86:  # capstone sees the `subs` that they abbreviate
        return set()
    if verb in _X86_READ_ONLY if x86 else verb.startswith(_A64_READ_ONLY):
        return listed
    several = verb in ("xchg", "xadd") if x86 else verb.startswith(("ld", "swp", "cas"))
    register = cs.x86.X86_OP_REG if x86 else cs.arm64.ARM64_OP_REG
    return listed | {i.reg_name(o.reg) for o in i.operands[: None if several else 1] if o.type == register}


def sweep(machine: str, code: bytes, address: int) -> Iterator[tuple[int, int, str, str]]:
    """(address, size, mnemonic, operands) of every instruction, in a linear pass."""
    try:
        yield from _decoder(machine, False).disasm_lite(code, address)
    except cs.CsError:
        return


def is_jump(machine: str, mnemonic: str) -> bool:
    """Whether it may go elsewhere without leaving a return address."""
    verb = mnemonic.rsplit(" ", 1)[-1]
    if machine == "x86-64":
        return verb[0] == "j" or verb in ("loop", "loope", "loopne", "xbegin")
    return verb in ("b", "br", "cbz", "cbnz", "tbz", "tbnz") or verb.startswith(("b.", "bc.", "bra"))


def leaves_path(machine: str, mnemonic: str) -> bool:
    """Whether the instruction after it is not always the next one to run: a jump, call, return or trap."""
    verb = mnemonic.rsplit(" ", 1)[-1]
    if is_jump(machine, verb):
        return True
    if machine == "x86-64":
        return verb.startswith(("call", "lcall", "ret", "iret", "sys", "int", "ud", "hlt"))
    return verb.startswith(("bl", "ret", "svc", "hvc", "smc", "brk", "hlt", "udf", "eret"))


def is_call(machine: str, mnemonic: str) -> bool:
    """Whether it is a call with a return address."""
    verb = mnemonic.rsplit(" ", 1)[-1]
    return verb == "call" if machine == "x86-64" else verb.startswith("bl")


def lea_target(end: int, verb: str, operands: str) -> int | None:
    """The address that x86-64's `lea reg, [rip + n]` computes; `end` is the address of the next instruction."""
    at = operands.find("[rip ") if verb == "lea" else -1
    if at < 0:
        return None
    sign, number = operands[at + 5 : -1].split(" ")
    return end + (int(number, 16) if sign == "+" else -int(number, 16))


def direct_target(operands: str) -> int | None:
    """The address a direct branch goes to, None for an indirect one."""
    last = operands.rsplit(",", 1)[-1].strip().lstrip("#")
    try:
        return int(last, 16) if last.startswith("0x") else int(last)
    except ValueError:
        return None
