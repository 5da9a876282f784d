"""Structs as DWARF describes them: without walking the whole tree.

The struct's name is looked up in .debug_str, then its offset as a reference in .debug_info: a struct's DIE begins
one to three bytes before the reference to its name. Only those DIEs are parsed, and of a compilation unit nothing
else. The 106 MB library with the DWARF of other code answers in 0.2 s. Not understood, and so answered with nothing:
names stored inline or by index (`-gdwarf-5` of clang), split DWARF.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile
from flowprof.profiler.binaries.dwarf_text import POINTERS, source, text, type_name

FOREIGN = (
    OSError,
    ELFError,
    DWARFError,
    ConstructError,
    ValueError,
    KeyError,
    AssertionError,
    AttributeError,
    IndexError,
)
"""What pyelftools raises on bytes that it does not understand."""
_MAX_SECTION = 1 << 29
_MAX_REFERENCES = 4096
_MAX_BASES = 16
_INLINE = 4
Members = dict[str, tuple[int, int]]  # name → offset, number of elements
_STRUCT_TAGS = ("DW_TAG_structure_type", "DW_TAG_class_type")
_QUALIFIERS = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_atomic_type")
_SIGNED = (0x05, 0x06, 0x0D)  # DW_ATE_signed, DW_ATE_signed_char, DW_ATE_signed_fixed
_REAL = 0x04  # DW_ATE_float
_ODD = (0x03, 0x09, 0x0F)  # DW_ATE_complex_float, _imaginary_float, _decimal_float


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct. target: the struct that it is, or that it points to; "": neither. real: floating-point;
    odd: complex or decimal. type: its name; source: file:line of its declaration; "" not known."""

    offset: int
    size: int
    signed: bool
    pointer: bool
    target: str
    real: bool = False
    odd: bool = False
    type: str = ""
    source: str = ""


@lru_cache(maxsize=64)
def struct_members(path: str, names: tuple[str, ...]) -> dict[str, Members]:
    """For each of the structs that the file describes: its members, and its size under the empty name.

    Remembered, as a resolution is tried again with each new graph until one fits.
    """
    found: dict[str, Members] = {}
    try:
        with open(path, "rb") as stream:
            elf = ELFFile(stream)
            sections = [elf.get_section_by_name(section) for section in (".debug_str", ".debug_info")]
            if any(section is None or section.data_size > _MAX_SECTION for section in sections):
                return found
            strings, info = (section.data() for section in sections if section is not None)
            found_at = {name: list(references(strings, info, name.encode())) for name in names}
            if not any(found_at.values()):
                return found
            dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False)
            for name, places in found_at.items():
                for die in dies(dwarf, info, places):
                    if members := _members(die, name):
                        found[name] = members
                        break
    except FOREIGN:
        return found  # damaged, or of a kind that pyelftools does not know: as good as none
    return found


@lru_cache(maxsize=256)
def struct_member(path: str, struct: str, name: str) -> Member | None:
    """A member of a struct or class by name, those of its bases included; None where the file does not describe it."""
    try:
        with open(path, "rb") as stream:
            for die in struct_dies(ELFFile(stream), struct):
                found = _member(die, name)
                if found is not None:
                    return found
    except FOREIGN:
        return None
    return None


def struct_dies(elf: ELFFile, struct: str) -> Iterator[DIE]:
    """Structs and classes of that name that are described, not only declared. Raises FOREIGN."""
    name = struct.rpartition("::")[2]
    for die in named_dies(elf, name, _STRUCT_TAGS):
        if text(die) == name and "DW_AT_byte_size" in die.attributes:
            yield die


def named_dies(elf: ELFFile, name: str, tags: Sequence[str]) -> Iterator[DIE]:
    """DIEs whose name may be `name`. Raises FOREIGN."""
    sections = [elf.get_section_by_name(section) for section in (".debug_str", ".debug_info")]
    if any(section is None or section.data_size > _MAX_SECTION for section in sections):
        return
    strings, info = (section.data() for section in sections if section is not None)
    places = list(references(strings, info, name.encode()))
    if len(name) < _INLINE:  # no longer than a reference: it stands where the reference would
        places += islice(_places(info, name.encode() + b"\0"), _MAX_REFERENCES)
    if places:
        yield from dies(elf.get_dwarf_info(relocate_dwarf_sections=False), info, places, tags)


def _member(die: DIE, name: str, base: int = 0, depth: int = 0) -> Member | None:
    for child in die.iter_children():
        location = child.attributes.get("DW_AT_data_member_location")
        if location is None or not isinstance(location.value, int):
            continue
        if child.tag == "DW_TAG_member" and text(child) == name:
            return value_type(child, base + location.value)
        if child.tag == "DW_TAG_inheritance" and depth < _MAX_BASES:
            found = _member(child.get_DIE_from_attribute("DW_AT_type"), name, base + location.value, depth + 1)
            if found is not None:
                return found
    return None


def value_type(member: DIE, offset: int = 0) -> Member:
    """What a member is, or any DIE that has a type. Raises FOREIGN."""
    kind = _bare(member)
    said = type_name(member), source(member)
    pointer = kind.tag in POINTERS
    if pointer:
        pointed = _bare(kind) if "DW_AT_type" in kind.attributes else kind
        return Member(offset, 8, False, True, text(pointed) if pointed.tag in _STRUCT_TAGS else "", False, False, *said)
    size = kind.attributes.get("DW_AT_byte_size")
    encoding = kind.attributes.get("DW_AT_encoding")
    return Member(
        offset, int(size.value) if size is not None and isinstance(size.value, int) else 0,
        encoding is not None and encoding.value in _SIGNED, False, text(kind) if kind.tag in _STRUCT_TAGS else "",
        encoding is not None and encoding.value == _REAL, encoding is not None and encoding.value in _ODD, *said,
    )  # fmt: skip


def _bare(die: DIE) -> DIE:
    """Its type without typedef, const and the like."""
    kind = die.get_DIE_from_attribute("DW_AT_type")
    for _ in range(_MAX_BASES):
        if kind.tag not in _QUALIFIERS or "DW_AT_type" not in kind.attributes:
            break
        kind = kind.get_DIE_from_attribute("DW_AT_type")
    return kind


def references(strings: bytes, info: bytes, name: bytes) -> Iterator[int]:
    """Offsets in .debug_info of 4-byte references to the string `name` (which may be the tail of a longer one)."""
    left = _MAX_REFERENCES
    for at in _places(strings, name + b"\0"):
        for use in _places(info, at.to_bytes(4, "little")):
            yield use
            left -= 1
            if not left:
                return


def _places(data: bytes, wanted: bytes) -> Iterator[int]:
    """Where `wanted` begins, one behind the other."""
    at = data.find(wanted)
    while at >= 0:
        yield at
        at = data.find(wanted, at + len(wanted))


def dies(dwarf: Any, info: bytes, places: list[int], tags: Sequence[str] = ("DW_TAG_structure_type",)) -> Iterator[DIE]:
    """The types whose name's reference stands at one of `places`; tags: of these kinds."""
    start = 0
    for reference in sorted(places):
        while True:  # the unit that holds it: each begins with its length
            length = int.from_bytes(info[start : start + 4], "little")
            if length == 0 or length >= 0xFFFFFFF0:
                return
            if reference < start + 4 + length:
                break
            start += 4 + length
        unit = dwarf.get_CU_at(start)
        for code_size in (1, 2, 3):
            try:
                die = DIE(cu=unit, stream=dwarf.debug_info_sec.stream, offset=reference - code_size)
            except FOREIGN:
                continue  # no DIE begins there
            if die.tag in tags:
                yield die


def _members(die: DIE, name: str) -> Members | None:
    if text(die) != name or "DW_AT_declaration" in die.attributes or "DW_AT_byte_size" not in die.attributes:
        return None
    members: Members = {"": (int(die.attributes["DW_AT_byte_size"].value), 1)}
    for child in die.iter_children():
        location = child.attributes.get("DW_AT_data_member_location")
        if child.tag == "DW_TAG_member" and location is not None and isinstance(location.value, int):
            members[text(child)] = (location.value, _elements(child))
    return members


def _elements(member: DIE) -> int:
    """How many elements the member's array has; 1 when it is none."""
    kind = member.get_DIE_from_attribute("DW_AT_type")
    if kind.tag != "DW_TAG_array_type":
        return 1
    for child in kind.iter_children():
        bound = child.attributes.get("DW_AT_upper_bound")
        if bound is not None and isinstance(bound.value, int):
            return int(bound.value) + 1
    return 1
