"""Source lines of addresses, from `.debug_line` alone: without the tree in .debug_info, which is ten times as large.

A line program is a row of sequences, each of which begins with a DW_LNE_set_address. Those are found by their bytes in
the whole section, and of an address only the sequence is run that begins closest below it; where bytes only look like a
beginning the next one is tried. pyelftools decodes whole programs, 16 s for 100 addresses of a 106 MB library.
Format: DWARF 5, section 6.2; versions 2 to 5.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.binaries.dwarf_bytes import Reader
from flowprof.profiler.binaries.elf_image import ElfError, ElfImage
from numpy.typing import NDArray

MAX_STEPS = 8_000_000  # of all line programs run for one table: some 4 s
_MAX_FILES, _MAX_NAME = 100_000, 1024
_TRIES = 3
_LEB = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
# What may stand before a sequence's first address: file, column, instruction set, flags, a discriminator. The last byte
# of an address (00) and two rows (01 01) look like the end of a sequence.
_PREFIX = rb"(?:[\x04\x05\x0c]%b|[\x06\x07\x0a\x0b]|\x00[\x02-\x06]\x04%b)*" % (_LEB, _LEB)
_FIRST = re.compile(_PREFIX + rb"\x00\x09\x02(?=.{8})", re.DOTALL)
_LATER = re.compile(rb"(?<!\x00\x09\x02.{7})\x00\x01\x01(?=(%b\x00\x09\x02).{8})" % _PREFIX, re.DOTALL)
_PATH, _DIRECTORY = 1, 2  # DW_LNCT_*


@dataclass(frozen=True, slots=True)
class _Program:
    """A line program's header. Places are in the section; files are (directory, name)."""

    version: int
    start: int
    end: int
    step: int  # bytes of the shortest instruction
    line_base: int
    line_range: int
    opcode_base: int
    operands: bytes  # how many LEB128 numbers each standard instruction has
    directories: list[bytes]
    files: list[tuple[int, bytes]]

    def name(self, number: int) -> str | None:
        """A file's path as the table has it; relative ones are so to where the compiler ran."""
        first = 0 if self.version >= 5 else 1
        if not first <= number < len(self.files) + first:
            return None
        directory, name = self.files[number - first]
        before = self.directories[directory] if directory < len(self.directories) else b""
        if before and not name.startswith(b"/"):
            name = before + b"/" + name
        return name[:_MAX_NAME].decode(errors="replace")


class LineTable:
    """One file's line programs."""

    def __init__(self, elf: ElfImage) -> None:
        """Raises ElfError where a section cannot be read."""
        self._elf = elf
        section = elf.section(".debug_line") if elf.bits == 64 and elf.order == "<" else None
        self._data = elf.section_bytes(section) if section else b""
        self._units = _units(self._data)
        starts, ends = _sequences(self._data, self._units)
        words = np.frombuffer(self._data, np.uint8)[ends[:, None] + np.arange(8)]
        addresses = np.ascontiguousarray(words).view("<u8").ravel()
        order = np.argsort(addresses, kind="stable")
        self._addresses, self._places = addresses[order], starts[order]
        self._programs: dict[int, _Program | None] = {}
        self._strings: dict[str, bytes] = {}
        self._steps = 0

    def lines(self, addresses: Iterable[int]) -> dict[int, str]:
        """Address → file:line; those that no row covers are left out."""
        found: dict[int, str] = {}
        left = {address: self._candidates(address) for address in set(addresses)}
        while left:
            by_place: dict[int, list[int]] = {}
            for address, places in left.items():
                if places:
                    by_place.setdefault(places.pop(0), []).append(address)
            for place, wanted in by_place.items():
                found |= self._run(place, sorted(wanted))
            left = {address: places for address, places in left.items() if places and address not in found}
        return found

    def _candidates(self, address: int) -> list[int]:
        if not 0 <= address < 1 << 64:
            return []
        end = int(np.searchsorted(self._addresses, np.uint64(address), side="right"))
        return [int(place) for place in self._places[max(0, end - _TRIES) : end][::-1]]

    def _run(self, place: int, wanted: list[int]) -> dict[int, str]:
        unit = bisect_right(self._units, place) - 1
        if unit < 0:
            return {}
        start = self._units[unit]
        try:
            if start not in self._programs:
                self._programs[start] = None  # if it cannot be read
                self._programs[start] = self._program(start)
            program = self._programs[start]
            if program is None or not program.start <= place < program.end:
                return {}
            rows, steps = _run(program, self._data, place, wanted, MAX_STEPS - self._steps)
        except (IndexError, ValueError):
            return {}
        self._steps += steps
        named = {address: (program.name(file), line) for address, (file, line) in rows.items()}
        return {address: f"{name}:{line}" for address, (name, line) in named.items() if name and line}

    def _program(self, at: int) -> _Program:
        unit = Reader(self._data, at)
        end = unit.number(4) + unit.at
        version = unit.number(2)
        if not 2 <= version <= 5:
            raise ValueError(version)
        if version == 5 and unit.number(2) != 8:  # size of an address, and of a segment's selector
            raise ValueError("other addresses")
        length = unit.number(4)
        start = length + unit.at
        step = unit.number(1)
        unit.take(2 if version >= 4 else 1)  # operations per instruction; is_stmt
        line_base, line_range, opcode_base = unit.number(1, signed=True), unit.number(1), unit.number(1)
        if not line_range or not opcode_base:
            raise ValueError("no lines")
        operands = b"\0" + unit.take(opcode_base - 1)
        directories, files = self._entries(unit) if version >= 5 else _old_entries(unit)
        return _Program(
            version, start, min(end, len(self._data)), step, line_base, line_range, opcode_base, operands,
            directories, files,
        )  # fmt: skip

    def _entries(self, unit: Reader) -> tuple[list[bytes], list[tuple[int, bytes]]]:
        """Directories and files as DWARF 5 describes them."""
        found: list[list[tuple[int, bytes]]] = []
        for _ in range(2):
            form = [(unit.leb(), unit.leb()) for _ in range(unit.number(1))]
            count = unit.leb()
            if count > _MAX_FILES or not form:
                raise ValueError(count)
            entries = []
            for _ in range(count):
                fields = {what: self._value(unit, kind) for what, kind in form}
                name, directory = fields.get(_PATH, b""), fields.get(_DIRECTORY, 0)
                if not isinstance(name, bytes) or not isinstance(directory, int):
                    raise ValueError("a path that is none")
                entries.append((directory, name))
            found.append(entries)
        return [name for _, name in found[0]], found[1]

    def _value(self, unit: Reader, form: int) -> int | bytes:
        if form == 0x08:  # DW_FORM_string
            return unit.text()
        if form in (0x0E, 0x1F):  # strp, line_strp
            return self._string(".debug_str" if form == 0x0E else ".debug_line_str", unit.number(4))
        if form in (0x0B, 0x05, 0x06, 0x07):  # data1, 2, 4, 8
            return unit.number({0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8}[form])
        if form == 0x0F:
            return unit.leb()
        if form == 0x1E:  # data16: a checksum
            return unit.take(16)
        if form == 0x09:  # block
            return unit.take(unit.leb())
        raise ValueError(form)

    def _string(self, section: str, at: int) -> bytes:
        if section not in self._strings:
            found = self._elf.section(section)
            try:
                self._strings[section] = self._elf.section_bytes(found) if found else b""
            except ElfError:
                self._strings[section] = b""
        return self._strings[section][at : at + _MAX_NAME].split(b"\0", 1)[0]


def _units(data: bytes) -> list[int]:
    """Where the line programs' headers are."""
    found, at = [], 0
    while at + 4 <= len(data):
        found.append(at)
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    return found


def _sequences(data: bytes, units: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the sequences begin, and where each has its first address."""
    found = [(match.end(), match.end(1)) for match in _LATER.finditer(data)]
    for unit in units:
        at = unit + (12 if data[unit + 4 : unit + 5] == b"\x05" else 10)  # the header's length ends here
        start = at + int.from_bytes(data[at - 4 : at], "little")
        if match := _FIRST.match(data, start):
            found.append((start, match.end()))
    starts, ends = np.array(found, np.int64).reshape(-1, 2).T
    return starts, ends


def _old_entries(unit: Reader) -> tuple[list[bytes], list[tuple[int, bytes]]]:
    """Directories and files as DWARF 2 to 4 list them; directory 0, where the compiler ran, is not told here."""
    directories, files = [b""], []
    while name := unit.text():
        directories.append(name)
    while name := unit.text():
        files.append((unit.leb(), name))
        unit.leb(), unit.leb()  # time and size
    return directories, files


def _run(
    program: _Program, data: bytes, at: int, wanted: list[int], steps: int
) -> tuple[dict[int, tuple[int, int]], int]:
    """Address → file and line by the sequence that begins here, and the steps taken.

    `wanted` in rising order. Raises IndexError where the data ends, ValueError after too many steps.
    """
    found: dict[int, tuple[int, int]] = {}
    next_wanted, left = wanted[0], wanted[1:][::-1]
    address, file, line = 0, 1, 1
    row: tuple[int, int, int] | None = None
    opcode_base, line_base, line_range = program.opcode_base, program.line_base, program.line_range
    step = program.step
    constant = (255 - opcode_base) // line_range * step
    end = program.end
    for taken in range(1, steps + 1):
        if at >= end:
            return found, taken
        byte = data[at]
        at += 1
        ended = False
        if byte >= opcode_base:
            byte -= opcode_base
            address += byte // line_range * step
            line += line_base + byte % line_range
        elif byte == 0:  # extended
            size, at = _leb(data, at)
            ended = data[at] == 1
            if data[at] == 2:
                address = int.from_bytes(data[at + 1 : at + 9], "little")
            at += size
            if not ended:
                continue
        elif byte == 2 or byte == 3 or byte == 4:
            number, at = _leb(data, at, byte == 3)
            if byte == 2:
                address += number * step
            elif byte == 3:
                line += number
            else:
                file = number
            continue
        elif byte == 8:
            address += constant
            continue
        elif byte == 9:
            address += int.from_bytes(data[at : at + 2], "little")
            at += 2
            continue
        elif byte != 1:
            for _ in range(program.operands[byte]):
                _, at = _leb(data, at)
            continue
        # a row: the one before it holds up to here
        while row is not None and next_wanted < address:
            if row[0] <= next_wanted:
                found[next_wanted] = row[1], row[2]
            if not left:
                return found, taken
            next_wanted = left.pop()
        if ended:
            return found, taken
        row = address, file, line
    raise ValueError("too long")


def _leb(data: bytes, at: int, signed: bool = False) -> tuple[int, int]:
    """A LEB128 number, and where it ends; Reader.leb without an object."""
    value = data[at]
    at += 1
    if value < 128:
        return (value - 128 if signed and value >= 64 else value), at
    value &= 127
    shift = 7
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return (value - (1 << shift) if signed and value >> (shift - 1) else value), at
