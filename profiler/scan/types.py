"""Types and signatures from DWARF, as far as they can be had in bounded time.

Up to `MAX_WALK` bytes of .debug_info are walked as a whole (about 0.3 s a MB); of more only the types that functions
belong to and whose names are those of resources are looked up (`dwarf.py` says how).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile
from flowprof.profiler.binaries.dwarf import FOREIGN, dies, references
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.scan.material import Function, words
from flowprof.profiler.scan.vocabulary import kind_of

MAX_WALK = 4 << 20
MAX_SECONDS = 12.0
MAX_NAMES = 64
MAX_SECTION = 1 << 29
MAX_MEMBERS = 256
_STRUCTS = ("DW_TAG_structure_type", "DW_TAG_class_type")


@dataclass(frozen=True)
class Described:
    """types: name → member → type. functions: name → (returns, parameters)."""

    types: dict[str, dict[str, str]] = field(default_factory=dict)
    functions: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def with_signatures(self, functions: Iterable[Function]) -> list[Function]:
        """C functions with the parameters and the return type that DWARF states."""
        found = []
        for function in functions:
            stated = self.functions.get(function.base) if not function.scope and function.parameters is None else None
            found.append(
                replace(function, returns=stated[0], parameters=stated[1]) if stated is not None else function
            )  # fmt: skip
        return found


def read(elf: ElfFile, wanted: set[str]) -> Described:
    """What the file's debug information, or its debug file's, says."""
    described = elf if elf.section(".debug_info") is not None else elf.debug_file
    info = described.section(".debug_info") if described is not None else None
    if described is None or info is None:
        return Described(notes=["no debug information: members of types are not known"])
    if info.size > MAX_SECTION:
        return Described(notes=[f"its debug information ({info.size >> 20} MiB) is too large to be read"])
    try:
        with open(described.path, "rb") as stream:
            dwarf = ELFFile(stream).get_dwarf_info(relocate_dwarf_sections=False)
            if info.size <= MAX_WALK:
                return _walked(dwarf)
            return _looked_up(dwarf, wanted)
    except FOREIGN as error:
        return Described(notes=[f"its debug information cannot be read: {type(error).__name__}"])


def _walked(dwarf: Any) -> Described:
    found = Described()
    until = time.monotonic() + MAX_SECONDS
    for unit in dwarf.iter_CUs():
        for die in unit.iter_DIEs():
            if die.tag in _STRUCTS and "DW_AT_declaration" not in die.attributes:
                members = _members(die)
                if members:
                    found.types.setdefault(_name(die), members)
            elif die.tag == "DW_TAG_subprogram" and "DW_AT_low_pc" in die.attributes:
                given = [c for c in die.iter_children() if c.tag == "DW_TAG_formal_parameter"]
                found.functions.setdefault(_name(die), (_type(die) or "void", tuple(_type(c) for c in given)))
        if time.monotonic() > until:
            found.notes.append(f"its debug information was read for {MAX_SECONDS:.0f} s, not to its end")
            break
    found.types.pop("", None)
    return found


def _looked_up(dwarf: Any, wanted: set[str]) -> Described:
    found = Described()
    until = time.monotonic() + MAX_SECONDS
    names = sorted(name for name in wanted if kind_of(words(name)))[:MAX_NAMES]
    strings, info = (_content(part) for part in (dwarf.debug_str_sec, dwarf.debug_info_sec))
    for name in names:
        if time.monotonic() > until:
            found.notes.append(f"types were looked up for {MAX_SECONDS:.0f} s, not all of {len(names)}")
            break
        places = list(references(strings, info, name.encode()))
        for die in dies(dwarf, info, places, _STRUCTS):
            if _name(die) == name and "DW_AT_declaration" not in die.attributes:
                found.types[name] = _members(die)
                break
    found.notes.append(f"debug information describes {len(found.types)} of {len(names)} types that were looked up")
    return found


def _content(section: Any) -> bytes:
    if section is None:
        return b""
    section.stream.seek(0)
    return bytes(section.stream.read())


def _members(die: DIE) -> dict[str, str]:
    members: dict[str, str] = {}
    for child in die.iter_children():
        if child.tag == "DW_TAG_member" and len(members) < MAX_MEMBERS:
            members[_name(child)] = _type(child)
    return members


def _name(die: DIE) -> str:
    attribute = die.attributes.get("DW_AT_name")
    return attribute.value.decode("utf-8", "replace")[:256] if attribute is not None and attribute.value else ""


def _type(die: DIE, depth: int = 8) -> str:
    """The type's name, with * for pointers; "" for void or none."""
    if "DW_AT_type" not in die.attributes or not depth:
        return ""
    kind = die.get_DIE_from_attribute("DW_AT_type")
    if kind.tag in ("DW_TAG_pointer_type", "DW_TAG_reference_type", "DW_TAG_rvalue_reference_type"):
        return f"{_type(kind, depth - 1) or 'void'}*"
    if kind.tag in ("DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_array_type", "DW_TAG_atomic_type"):
        return _type(kind, depth - 1)
    return _name(kind) or _type(kind, depth - 1)
