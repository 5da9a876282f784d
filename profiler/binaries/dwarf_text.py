"""What a DIE says in words: its name, its type's name as C writes it, and where it is declared."""

from __future__ import annotations

from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.die import DIE, AttributeValue

MAX_DEPTH = 16  # types within types
POINTERS = ("DW_TAG_pointer_type", "DW_TAG_reference_type", "DW_TAG_rvalue_reference_type")
_SUFFIX = {"DW_TAG_pointer_type": " *", "DW_TAG_reference_type": " &", "DW_TAG_rvalue_reference_type": " &&"}
_PREFIX = {"DW_TAG_const_type": "const ", "DW_TAG_volatile_type": "volatile ", "DW_TAG_atomic_type": "_Atomic "}


def text(die: DIE) -> str:
    """Its name; "" where it has none."""
    attribute = die.attributes.get("DW_AT_name")
    return attribute.value.decode("utf-8", "replace") if attribute is not None else ""


def type_name(die: DIE, depth: int = 0) -> str:
    """The name of the type that a variable, a member or an argument has, as far as it is told."""
    if "DW_AT_type" not in die.attributes:
        return "void"
    kind = die.get_DIE_from_attribute("DW_AT_type")
    if text(kind) or depth >= MAX_DEPTH:
        return text(kind)
    if kind.tag == "DW_TAG_array_type":
        return f"{type_name(kind, depth + 1)}[]"
    if kind.tag in _SUFFIX or kind.tag in _PREFIX:
        return f"{_PREFIX.get(kind.tag, '')}{type_name(kind, depth + 1)}{_SUFFIX.get(kind.tag, '')}"
    return ""


def source(die: DIE) -> str:
    """file:line of the declaration; "" not told."""
    file, line, unit = _told(die, "DW_AT_decl_file"), _told(die, "DW_AT_decl_line"), die.cu
    program = unit.dwarfinfo.line_program_for_CU(unit) if isinstance(unit, CompileUnit) else None
    if program is None or file is None or line is None:
        return ""
    header = program.header
    first = 0 if header["version"] >= 5 else 1
    if not first <= file.value < len(header["file_entry"]) + first:
        return ""
    entry = header["file_entry"][file.value - first]
    name = _decoded(entry["name"])
    folders = header["include_directory"]
    at = entry["dir_index"] - first
    folder = _decoded(folders[at]) if 0 <= at < len(folders) else ""
    return f"{folder}/{name}:{line.value}" if folder and not name.startswith("/") else f"{name}:{line.value}"


def _told(die: DIE, name: str) -> AttributeValue | None:
    """The attribute, of the declaration where the definition does not repeat it."""
    if name not in die.attributes and "DW_AT_specification" in die.attributes:
        die = die.get_DIE_from_attribute("DW_AT_specification")
    return die.attributes.get(name)


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "replace")
