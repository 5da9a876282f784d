"""A member that has no debug information, by the function of the target that returns it.

`unsigned context::n_batch() const { return n_batch; }` is compiled to one load and a return, and so tells where the
member lies and how large it is, in every build anew. Only such a function is understood: nothing of the target is run.
"""

from __future__ import annotations

import re

from flowprof.profiler.binaries.disassembly import direct_target, sweep
from flowprof.profiler.binaries.elf import ElfError, ElfFile
from flowprof.profiler.resources.expression import ExpressionError, Step

MAX_HOPS = 3  # stubs and jumps on the way to it
_BYTES = 16  # more than a hint, a load and a return
_X86 = {  # mnemonic and what is loaded into the result's register → size, signed
    ("mov", "eax", "dword"): (4, False), ("mov", "rax", "qword"): (8, False), ("movzx", "eax", "byte"): (1, False),
    ("movzx", "eax", "word"): (2, False), ("movsx", "eax", "byte"): (1, True), ("movsx", "eax", "word"): (2, True),
    ("movsxd", "rax", "dword"): (4, True),
}  # fmt: skip
_X86_LOAD = re.compile(r"(eax|rax), (byte|word|dword|qword) ptr \[rdi(?: ([+-]) (0x[0-9a-f]+|\d+))?\]")
_A64 = {("ldr", "w"): (4, False), ("ldr", "x"): (8, False), ("ldrb", "w"): (1, False), ("ldrh", "w"): (2, False),
        ("ldrsw", "x"): (4, True)}  # fmt: skip
_A64_LOAD = re.compile(r"([wx])0, \[x0(?:, #(-?)(0x[0-9a-f]+|\d+))?\]")
_HINTS = ("endbr64", "nop", "bti", "hint")


def getter_step(elf: ElfFile, symbol: str) -> Step:
    """What the function of this symbol loads from its object. Raises ExpressionError where it does anything else."""
    known = elf.symbols().get(symbol)
    if known is None:
        raise ExpressionError(f"there is no function {symbol[:80]}")
    address = known.address
    for _ in range(MAX_HOPS):
        try:
            code = elf.read(address, min(_BYTES, known.size) if known.size and address == known.address else _BYTES)
        except ElfError as error:
            raise ExpressionError(f"{symbol[:80]} cannot be read: {error.message}") from error
        lines = [line for line in sweep(elf.machine, code, address) if line[2] not in _HINTS]
        if lines and lines[0][2] in ("jmp", "b") and (goal := direct_target(lines[0][3])) is not None:
            behind = elf.symbols().get(elf.plt_target(goal) or "")
            address = goal if behind is None else behind.address
            continue
        step = _loaded(elf.machine, lines[0][2], lines[0][3]) if len(lines) > 1 else None
        if step is not None and lines[1][2] == "ret":
            return step
        break
    raise ExpressionError(f"{symbol[:80]} does not just return a member")


def _loaded(machine: str, verb: str, operands: str) -> Step | None:
    found = (_X86_LOAD if machine == "x86-64" else _A64_LOAD).fullmatch(operands)
    if found is None:
        return None
    if machine == "x86-64":
        kind, sign, number = _X86.get((verb, found[1], found[2])), found[3], found[4]
    else:
        kind, sign, number = _A64.get((verb, found[1])), found[2], found[3]
    offset = int(number or "0", 0) * (-1 if sign == "-" else 1)
    return None if kind is None else Step(offset, *kind)
