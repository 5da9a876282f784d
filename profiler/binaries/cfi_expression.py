"""DWARF expressions as call frame information uses them (PLT stubs, signal frames, realigned stacks).

DWARF 5, section 2.5. Branches are left out, no compiler needs them here: so an expression ends after as many steps as
it has bytes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from flowprof.profiler.binaries.dwarf_bytes import Reader

_MASK = (1 << 64) - 1
_MAX_DEPTH = 64


class Unknown(Exception):  # noqa: N818
    """The value cannot be known: a register or memory that was not copied, or an operation unknown here."""


def signed(value: int) -> int:
    """A 64-bit word as a signed number."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_TWO: dict[int, Callable[[int, int], int]] = {
    0x1A: operator.and_, 0x1C: operator.sub, 0x1E: operator.mul, 0x21: operator.or_, 0x22: operator.add,
    0x24: lambda a, b: a << b if b < 64 else 0, 0x25: lambda a, b: a >> b if b < 64 else 0,
    0x26: lambda a, b: signed(a) >> min(b, 63), 0x27: operator.xor,
    0x29: operator.eq, 0x2E: operator.ne,
    0x2A: lambda a, b: signed(a) >= signed(b), 0x2B: lambda a, b: signed(a) > signed(b),
    0x2C: lambda a, b: signed(a) <= signed(b), 0x2D: lambda a, b: signed(a) < signed(b),
}  # fmt: skip
_ONE: dict[int, Callable[[int], int]] = {0x1F: operator.neg, 0x20: operator.invert}
_CONSTANTS = {0x03: (8, False)} | {0x08 + i: (1 << i // 2, bool(i % 2)) for i in range(8)}  # addr, const1u … const8s


def evaluate(
    expression: bytes, registers: Mapping[int, int], word: Callable[[int], int], first: int | None = None
) -> int:
    """The value of an expression; `word` reads memory, `first` lies on its stack from the beginning. Raises Unknown."""
    code, stack = Reader(expression), [] if first is None else [first]
    try:
        while code.at < len(expression):
            byte = code.number(1)
            if byte in _TWO:
                b, a = stack.pop(), stack.pop()
                stack.append(int(_TWO[byte](a, b)))
            elif byte in _ONE:
                stack.append(_ONE[byte](stack.pop()))
            elif 0x30 <= byte <= 0x4F:  # lit0 … lit31
                stack.append(byte - 0x30)
            elif 0x70 <= byte <= 0x8F:  # breg0 … breg31
                stack.append(registers[byte - 0x70] + code.leb(signed=True))
            elif byte in _CONSTANTS:
                stack.append(code.number(*_CONSTANTS[byte]))
            elif byte in (0x10, 0x11):  # constu, consts
                stack.append(code.leb(signed=byte == 0x11))
            elif byte == 0x06:
                stack.append(word(stack.pop()))
            elif byte == 0x23:  # plus_uconst
                stack.append(stack.pop() + code.leb())
            elif byte == 0x12:
                stack.append(stack[-1])
            elif byte == 0x13:
                stack.pop()
            elif byte == 0x14:  # over
                stack.append(stack[-2])
            elif byte == 0x16:  # swap
                stack[-2:] = stack[-1], stack[-2]
            elif byte != 0x96:  # nop
                raise Unknown
            if len(stack) > _MAX_DEPTH:
                raise Unknown
            if stack:
                stack[-1] &= _MASK
        return stack[-1]
    except (IndexError, KeyError, ValueError) as error:
        raise Unknown from error
