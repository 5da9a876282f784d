"""Layouts of ggml's structs from DWARF, where a binary describes them: without walking the whole tree.

The struct's name is looked up in .debug_str, then its offset as a reference in .debug_info: a struct's DIE begins
one to three bytes before the reference to its name. Only those DIEs are parsed, and of a compilation unit nothing
else. The 106 MB library with the DWARF of other code answers in 0.2 s. Not understood, and so answered with nothing:
names stored inline or by index (`-gdwarf-5` of clang), split DWARF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile

from .layout import GraphLayout, Layouts, ParamsLayout, TensorLayout
from .names import LiveModule

STATED = "the binary's debug information"
_STRUCTS = ("ggml_tensor", "ggml_cgraph", "ggml_compute_params")
# what pyelftools raises on bytes that it does not understand
_FOREIGN = (
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
_MAX_SECTION = 1 << 29
_MAX_REFERENCES = 4096
Members = dict[str, tuple[int, int]]  # name → offset, number of elements


def dwarf_layouts(modules: Sequence[LiveModule], known: Sequence[Layouts]) -> list[Layouts]:
    """The layouts that the binaries, or their debug files, state; none when they state none.

    A library may describe the tensor, which is public, and not the graph, which is not: then the rest is as in `known`
    versions, each of them a candidate.
    """
    structs: dict[str, Members] = {}
    for path in _paths(modules):
        wanted = tuple(name for name in _STRUCTS if name not in structs)
        if wanted:
            structs |= struct_members(path, wanted)
    try:
        tensor = _tensor(structs["ggml_tensor"])
        if "ggml_cgraph" in structs:
            return [Layouts(tensor, _graph(structs["ggml_cgraph"]), _params(structs), STATED)]
    except KeyError:  # the struct is there, a member that we need is not
        return []
    return [replace(other, tensor=tensor, version=f"{STATED} and {other.version}") for other in known]


def _paths(modules: Sequence[LiveModule]) -> Iterator[str]:
    for module in modules:
        if module.elf.section(".debug_info") is not None:
            yield module.elf.path
        elif module.elf.debug_file is not None:
            yield module.elf.debug_file.path


def _optional(members: Members, name: str) -> int | None:
    return members[name][0] if name in members else None


def _tensor(members: Members) -> TensorLayout:
    return TensorLayout(
        type=members["type"][0],
        ne=members["ne"][0],
        nb=members["nb"][0],
        op=members["op"][0],
        src=members["src"][0],
        n_src=members["src"][1],
        data=members["data"][0],
        name=members["name"][0],
        size=members[""][0],
        op_params=_optional(members, "op_params"),
        flags=_optional(members, "flags"),
        view_src=_optional(members, "view_src"),
        source="dwarf",
    )


def _graph(members: Members) -> GraphLayout:
    return GraphLayout(
        n_nodes=members["n_nodes"][0],
        nodes=members["nodes"][0],
        n_leafs=members["n_leafs"][0],
        leafs=members["leafs"][0],
        uid=_optional(members, "uid"),
        inline=members["nodes"][1] > 1,
    )


def _params(structs: dict[str, Members]) -> ParamsLayout:
    members = structs.get("ggml_compute_params", {})
    return ParamsLayout(members.get("ith", (0, 1))[0], members.get("nth", (4, 1))[0])


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
            references = {name: list(_references(strings, info, name.encode())) for name in names}
            if not any(references.values()):
                return found
            dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False)
            for name, places in references.items():
                for die in _dies(dwarf, info, places):
                    if members := _members(die, name):
                        found[name] = members
                        break
    except _FOREIGN:
        return found  # damaged, or of a kind that pyelftools does not know: as good as none
    return found


def _references(strings: bytes, info: bytes, name: bytes) -> Iterator[int]:
    """Offsets in .debug_info of 4-byte references to the string `name` (which may be the tail of a longer one)."""
    left = _MAX_REFERENCES
    for text in re.finditer(re.escape(name) + b"\0", strings):
        for use in re.finditer(re.escape(text.start().to_bytes(4, "little")), info):
            yield use.start()
            left -= 1
            if not left:
                return


def _dies(dwarf: Any, info: bytes, references: list[int]) -> Iterator[DIE]:
    """The structs whose name's reference stands at one of `references`."""
    start = 0
    for reference in sorted(references):
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
            except _FOREIGN:
                continue  # no DIE begins there
            if die.tag == "DW_TAG_structure_type":
                yield die


def _members(die: DIE, name: str) -> Members | None:
    if _text(die) != name or "DW_AT_declaration" in die.attributes or "DW_AT_byte_size" not in die.attributes:
        return None
    members: Members = {"": (int(die.attributes["DW_AT_byte_size"].value), 1)}
    for child in die.iter_children():
        location = child.attributes.get("DW_AT_data_member_location")
        if child.tag == "DW_TAG_member" and location is not None and isinstance(location.value, int):
            members[_text(child)] = (location.value, _elements(child))
    return members


def _text(die: DIE) -> str:
    attribute = die.attributes.get("DW_AT_name")
    return attribute.value.decode("utf-8", "replace") if attribute is not None else ""


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
