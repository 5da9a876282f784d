"""Layouts of ggml's structs from debug information, where a binary or its debug file has some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from flowprof.profiler.binaries.dwarf import Members, struct_members
from flowprof.profiler.ggml.layout import GraphLayout, Layouts, ParamsLayout, TensorLayout
from flowprof.profiler.ggml.names import LiveModule

STATED = "the binary's debug information"
_STRUCTS = ("ggml_tensor", "ggml_cgraph", "ggml_compute_params")


def dwarf_layouts(modules: Sequence[LiveModule], known: Sequence[Layouts]) -> list[Layouts]:
    """The layouts that the binaries, or their debug files, state; none when they state none.

    A library may describe the tensor, which is public, and not the graph, which is not: then the rest is as in `known`
    versions, each of them a candidate.
    """
    structs: dict[str, Members] = {}
    for path in dict.fromkeys(_paths(modules)):  # one file may hold several engines
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
