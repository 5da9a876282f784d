"""How to leave a function: for each of its instructions, where the caller's frame and registers are, from `.eh_frame`.

A row is valid from its address to the next row's. Registers have DWARF's numbers of x86-64 (System V ABI, figure 3.36;
16 is the return address). Only the registers that a function must give back are followed. Format: DWARF 5, section 6.4;
Linux Standard Base, "Exception Frames". Entries are read one by one and remembered: a library has 30 000 of them, a
stack a dozen. pyelftools reads the section as a whole, and knows no DW_CFA_GNU_args_size.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from flowprof.profiler.binaries.dwarf_bytes import Reader
from flowprof.profiler.binaries.elf_image import ElfError

if TYPE_CHECKING:
    from flowprof.profiler.binaries.elf import ElfFile

RBX, RBP, RSP, RETURN = 3, 6, 7, 16
FOLLOWED = (RBX, RBP, RSP, 12, 13, 14, 15, RETURN)
MAX_ENTRY = 1 << 16  # bytes; 7 KB is the longest in PyTorch's 335 000
_MAX_REMEMBERED = 64  # states in one function
_POINTER_SIZES = {0: 8, 2: 2, 3: 4, 4: 8}  # by the low three bits of a pointer's encoding

How = Literal["offset", "val_offset", "register", "expression", "val_expression", "undefined"]


@dataclass(frozen=True, slots=True)
class Rule:
    """The caller's value of a register: it is at CFA + number, is CFA + number, is in register number, is at an
    expression's address, is an expression's value, is nowhere. Without a rule it is unchanged."""

    how: How
    number: int = 0
    expression: bytes = b""


@dataclass(frozen=True, slots=True)
class Row:
    """The rules that hold from an address on. The CFA is register + offset, or what the expression says."""

    address: int
    register: int = -1
    offset: int = 0
    expression: bytes = b""
    rules: tuple[tuple[int, Rule], ...] = ()
    signal: bool = False  # the frame of a signal's handler: the caller was interrupted, it did not call


@dataclass(frozen=True, slots=True)
class _Common:
    """A CIE: what several functions share."""

    code_factor: int
    data_factor: int
    pointer_size: int
    augmented: bool
    signal: bool
    program: bytes


class CallFrames:
    """The rows of one file's functions."""

    def __init__(self, elf: ElfFile) -> None:
        self._elf = elf
        self._common: dict[int, _Common] = {}
        self._rows: dict[int, list[Row]] = {}

    def at(self, address: int) -> Row | None:
        """The row for an instruction; None where the file has none, or one that cannot be understood."""
        if self._elf.machine != "x86-64":
            return None
        place = self._elf.frame_entry(address)
        if place is None:
            return None
        start, entry = place
        if entry not in self._rows:
            try:
                self._rows[entry] = self._read(start, entry)
            except (ElfError, IndexError, ValueError):
                self._rows[entry] = []
        rows = self._rows[entry]
        i = bisect_right(rows, address, key=lambda row: row.address) - 1
        return rows[i] if i >= 0 else None

    def _entry(self, address: int) -> bytes:
        length = int.from_bytes(self._elf.read(address, 4), "little")
        if not 4 <= length <= MAX_ENTRY:
            raise ValueError(length)
        return self._elf.read(address + 4, length)

    def _read(self, start: int, address: int) -> list[Row]:
        entry = Reader(self._entry(address))
        at = address + 4 - entry.number(4)
        if at not in self._common:
            self._common[at] = _common(Reader(self._entry(at)))
        common = self._common[at]
        entry.take(2 * common.pointer_size)  # start and length, which the table has
        if common.augmented:
            entry.take(entry.leb())
        first = Row(start, signal=common.signal)
        initial = _run(common.program, first, first, common)[-1]
        return _run(entry.data[entry.at :], initial, initial, common)


def _common(entry: Reader) -> _Common:
    identity, version = entry.number(4), entry.number(1)
    augmentation = entry.text()
    if identity or version not in (1, 3) or augmentation[:1] not in (b"", b"z"):
        raise ValueError(augmentation)
    code_factor, data_factor = entry.leb(), entry.leb(signed=True)
    if (entry.number(1) if version == 1 else entry.leb()) != RETURN:
        raise ValueError("another return address")
    pointer_size, signal = 8, False
    if augmentation:
        data = Reader(entry.take(entry.leb()))
        for letter in augmentation[1:]:
            if letter == ord("R"):
                pointer_size = _POINTER_SIZES[data.number(1) & 7]
            elif letter == ord("P"):
                data.take(_POINTER_SIZES[data.number(1) & 7])
            elif letter == ord("L"):
                data.take(1)
            elif letter == ord("S"):
                signal = True
            else:
                raise ValueError(augmentation)
    return _Common(code_factor, data_factor, pointer_size, bool(augmentation), signal, entry.data[entry.at :])


def _run(program: bytes, row: Row, initial: Row, common: _Common) -> list[Row]:
    """The rows that a program of DW_CFA instructions makes; `initial` is what DW_CFA_restore goes back to."""
    code = Reader(program)
    rows: list[Row] = []
    remembered: list[tuple[Row, dict[int, Rule]]] = []
    rules = dict(row.rules)

    def set_rule(register: int, rule: Rule | None) -> None:
        if register in FOLLOWED:
            if rule is None:
                rules.pop(register, None)
            else:
                rules[register] = rule

    def advance(distance: int) -> Row:
        rows.append(replace(row, rules=tuple(rules.items())))
        return replace(row, address=row.address + distance * common.code_factor)

    while code.at < len(program):
        byte = code.number(1)
        high, low = byte & 0xC0, byte & 0x3F
        if high == 0x40:
            row = advance(low)
        elif high == 0x80:
            set_rule(low, Rule("offset", code.leb() * common.data_factor))
        elif high == 0xC0:
            set_rule(low, dict(initial.rules).get(low))
        elif byte in (0x02, 0x03, 0x04):  # advance_loc1, 2, 4
            row = advance(code.number(1 << (byte - 2)))
        elif byte in (0x05, 0x11):  # offset_extended, and _sf
            set_rule(code.leb(), Rule("offset", code.leb(signed=byte == 0x11) * common.data_factor))
        elif byte == 0x2F:  # GNU_negative_offset_extended
            set_rule(code.leb(), Rule("offset", -code.leb() * common.data_factor))
        elif byte == 0x06:  # restore_extended
            register = code.leb()
            set_rule(register, dict(initial.rules).get(register))
        elif byte == 0x07:
            set_rule(code.leb(), Rule("undefined"))
        elif byte == 0x08:  # same_value
            set_rule(code.leb(), None)
        elif byte == 0x09:
            set_rule(code.leb(), Rule("register", code.leb()))
        elif byte == 0x0A:
            if len(remembered) == _MAX_REMEMBERED:
                raise ValueError("too many states")
            remembered.append((row, dict(rules)))
        elif byte == 0x0B:
            earlier, rules = remembered.pop()
            row = replace(earlier, address=row.address)
        elif byte in (0x0C, 0x12):  # def_cfa, and _sf
            register, offset = code.leb(), code.leb(signed=byte == 0x12)
            offset *= common.data_factor if byte == 0x12 else 1
            row = replace(row, register=register, offset=offset, expression=b"")
        elif byte == 0x0D:
            row = replace(row, register=code.leb(), expression=b"")
        elif byte in (0x0E, 0x13):  # def_cfa_offset, and _sf
            row = replace(row, offset=code.leb() if byte == 0x0E else code.leb(signed=True) * common.data_factor)
        elif byte == 0x0F:
            row = replace(row, expression=code.take(code.leb()))
        elif byte in (0x10, 0x16):
            how: How = "expression" if byte == 0x10 else "val_expression"
            set_rule(code.leb(), Rule(how, expression=code.take(code.leb())))
        elif byte in (0x14, 0x15):
            set_rule(code.leb(), Rule("val_offset", code.leb(signed=byte == 0x15) * common.data_factor))
        elif byte == 0x2E:  # GNU_args_size: for the throwing of exceptions
            code.leb()
        elif byte != 0:  # nop
            raise ValueError(f"instruction {byte:#x}")
    advance(0)
    return rows
