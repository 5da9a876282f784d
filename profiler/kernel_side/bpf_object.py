"""What the compiler makes of .bpf.c files: maps to be created and programs that use them, with nothing in them of the
process that compiled them. As bytes it can be kept."""

from __future__ import annotations

import struct

import msgspec

LOAD_MAP_FD, PSEUDO_MAP_FD = 0x18, 1  # BPF_LD | BPF_DW | BPF_IMM with this source register: the address of a map
INSTRUCTION_BYTES = 8


class Map(msgspec.Struct, frozen=True):
    """A map as the kernel is asked for it (union bpf_attr of BPF_MAP_CREATE)."""

    name: str
    type: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


class Code(msgspec.Struct, frozen=True):
    """A program: its instructions, and which of them want the file descriptor of which map."""

    instructions: bytes
    maps: dict[int, str]  # by number of the instruction

    def with_maps(self, fds: dict[str, int]) -> bytes:
        """The instructions with the descriptors of these maps in them."""
        code = bytearray(self.instructions)
        for number, name in self.maps.items():
            struct.pack_into("<i", code, number * INSTRUCTION_BYTES + 4, fds[name])
        return bytes(code)


class BpfObject(msgspec.Struct, frozen=True):
    """All of one compilation."""

    maps: list[Map]
    programs: dict[str, Code]
    license: str


def pack(made: BpfObject) -> bytes:
    """As bytes, for `unpack`."""
    return msgspec.msgpack.encode(made)


def unpack(data: bytes) -> BpfObject | None:
    """What was packed; None for anything else."""
    try:
        made = msgspec.msgpack.decode(data, type=BpfObject)
    except (msgspec.DecodeError, RecursionError):
        return None
    names = {one.name for one in made.maps}
    for code in made.programs.values():
        count, rest = divmod(len(code.instructions), INSTRUCTION_BYTES)
        if rest or not all(0 <= number < count and name in names for number, name in code.maps.items()):
            return None
    return made


def code_of(instructions: bytes, names: dict[int, str]) -> Code:
    """A program as it was compiled, with descriptors of maps in it. names: of the maps, by descriptor."""
    places = {}
    for number in range(len(instructions) // INSTRUCTION_BYTES):
        operation, registers, value = struct.unpack_from("<BB2xi", instructions, number * INSTRUCTION_BYTES)
        if operation == LOAD_MAP_FD and registers >> 4 == PSEUDO_MAP_FD:
            places[number] = names[value]
    return Code(instructions, places)
