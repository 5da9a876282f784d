"""What debug information says of a global variable, and of a function's arguments.

Only DIEs whose name is asked for are parsed (dwarf.py), and of those the variable that lies at the symbol's address and
the function whose linkage name is the symbol's. What dwarf.py does not understand is answered with nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile
from flowprof.profiler.binaries.dwarf import FOREIGN, Member, named_dies, struct_dies, value_type
from flowprof.profiler.binaries.dwarf_text import source, text

MAX_NAMES = 40  # of members that are listed
_ADDRESS = 0x03  # DW_OP_addr
_REGISTERS = 6


@lru_cache(maxsize=256)
def variable(path: str, name: str, address: int) -> Member | None:
    """A global variable's type and declaration. name: without namespaces; address: as the file's headers count."""
    try:
        with open(path, "rb") as stream:
            declared = None
            for die in named_dies(ELFFile(stream), name, ("DW_TAG_variable",)):
                if text(die) != name:
                    continue
                if _lies_at(die, address):
                    return value_type(die)
                if "DW_AT_declaration" in die.attributes:
                    definition = _definition(die, address)
                    if definition is not None:
                        return definition
                    declared = declared or value_type(die)
            return declared
    except FOREIGN:
        return None


@lru_cache(maxsize=256)
def registers(path: str, symbol: str, name: str) -> tuple[tuple[str, Member], ...] | None:
    """A function's arguments that come in arg1 … arg6, by name, in their order; None: it is not described.

    symbol: the linkage name; name: without namespaces and arguments. The list ends where the order of registers is not
    known any more: at a structure that is handed over by value. Floating-point arguments take none of these.
    """
    try:
        with open(path, "rb") as stream:
            for die in _functions(ELFFile(stream), symbol, name):
                told = "DW_AT_declaration" in die.attributes  # often without names
                return tuple(_in_registers(next(_definitions(die), die) if told else die))[:_REGISTERS]
    except FOREIGN:
        return None
    return None


@lru_cache(maxsize=256)
def returned(path: str, symbol: str, name: str) -> Member | None:
    """What a function returns, as `registers`; None: nothing, or it is not described."""
    try:
        with open(path, "rb") as stream:
            for die in _functions(ELFFile(stream), symbol, name):
                return value_type(die) if "DW_AT_type" in die.attributes else None
    except FOREIGN:
        return None
    return None


@lru_cache(maxsize=64)
def member_names(path: str, struct: str) -> tuple[str, ...]:
    """The members of a struct, the first MAX_NAMES of them; () where it is not described."""
    try:
        with open(path, "rb") as stream:
            for die in struct_dies(ELFFile(stream), struct):
                names = [text(child) for child in die.iter_children() if child.tag == "DW_TAG_member"]
                return tuple(filter(None, names))[:MAX_NAMES]
    except FOREIGN:
        return ()
    return ()


def _functions(elf: ELFFile, symbol: str, name: str) -> Iterator[DIE]:
    for die in named_dies(elf, name, ("DW_TAG_subprogram",)):
        linkage = die.attributes.get("DW_AT_linkage_name")
        said = linkage.value.decode("utf-8", "replace") if linkage is not None else name
        if text(die) == name and said == symbol:
            yield die


def _lies_at(die: DIE, address: int) -> bool:
    location = die.attributes.get("DW_AT_location")
    if location is None or not isinstance(location.value, list):
        return False
    return list(location.value) == [_ADDRESS, *address.to_bytes(8, "little")]


def _definition(declaration: DIE, address: int) -> Member | None:
    """What lies at the address, where that is what the declaration (in a header, in a class) is of."""
    for die in _definitions(declaration):
        if _lies_at(die, address):
            return replace(value_type(declaration), source=source(die))
    return None


def _definitions(declaration: DIE) -> Iterator[DIE]:
    for die in declaration.cu.get_top_DIE().iter_children():
        if die.tag != declaration.tag or "DW_AT_specification" not in die.attributes:
            continue
        if die.get_DIE_from_attribute("DW_AT_specification").offset == declaration.offset:
            yield die


def _in_registers(function: DIE) -> Iterator[tuple[str, Member]]:
    for child in function.iter_children():
        if child.tag != "DW_TAG_formal_parameter" or "DW_AT_type" not in child.attributes:
            continue
        kind = value_type(child)
        if kind.real or kind.odd:
            continue
        if not kind.pointer and kind.size not in (1, 2, 4, 8):
            return
        if kind.target and not kind.pointer:
            return
        yield text(child), kind
