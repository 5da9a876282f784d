"""Operator and type names of a ggml build, from the build itself: operator numbers shift between versions.

The tables (`GGML_OP_NAME`, `GGML_UNARY_OP_NAME`, `GGML_GLU_OP_NAME`, `type_traits`) are static arrays of string
pointers. They are found by symbol or, in a stripped library, by the address that the exported accessor
(`ggml_op_name` …) loads. They are read in the live process, where the pointers are already relocated. Of
`type_traits` only the start is known; stride, block size and type size are found from what cannot change: f32 is 1
element in 4 bytes, f16 is 1 in 2, q8_0 is 32.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from flowprof.profiler.errors import NothingToProfileError
from flowprof.profiler.memory import Memory, Unreadable

if TYPE_CHECKING:
    from flowprof.profiler.binaries.elf import ElfFile
    from flowprof.profiler.binaries.symbols import Symbol

_MAX_OPS = 512
_MAX_TYPES = 64
_EMPTY_OPS = frozenset({"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"})
# table symbol → the exported function that returns an entry of it
_ACCESSORS = {
    "GGML_OP_NAME": "ggml_op_name",
    "GGML_UNARY_OP_NAME": "ggml_unary_op_name",
    "GGML_GLU_OP_NAME": "ggml_glu_op_name",
    "GGML_OP_SYMBOL": "ggml_op_symbol",
    "type_traits": "ggml_type_name",
}


class NamesUnknown(NothingToProfileError):  # noqa: N818 (it says what happened, and is not always an error)
    """The build's operator or type names could not be found."""


@dataclass(frozen=True, slots=True)
class TypeTrait:
    """A tensor type. `block_size` elements take `type_size` bytes; (0, 0) for numbers that the build retired."""

    name: str
    block_size: int
    type_size: int


@dataclass(frozen=True)
class OpNames:
    """What the numbers in tensors mean in one build."""

    ops: tuple[str, ...]
    types: tuple[TypeTrait, ...]
    unary: tuple[str, ...] = ()  # sub-operators of UNARY; op_params[0]
    glu: tuple[str, ...] = ()  # sub-operators of GLU; op_params[0]

    @cached_property
    def empty_ops(self) -> frozenset[int]:
        """Operator numbers that compute nothing: the tensor is only another view of its source."""
        return frozenset(number for number, name in enumerate(self.ops) if name in _EMPTY_OPS)

    def op_number(self, name: str) -> int | None:
        return self.ops.index(name) if name in self.ops else None


@dataclass(frozen=True, slots=True)
class LiveModule:
    """A binary as it is mapped in the target: address in the process = `bias` + address in the file."""

    elf: ElfFile
    bias: int


def read_names(memory: Memory, modules: Sequence[LiveModule]) -> OpNames:
    """Names from the first of `modules` that holds them (ggml-base, or the one big library). Raises NamesUnknown."""
    tables: dict[str, tuple[int, int]] = {}
    for name, accessor in _ACCESSORS.items():
        found = _locate(memory, modules, name, accessor)
        if found is not None:
            tables[name] = found
    missing = [name for name in ("GGML_OP_NAME", "type_traits") if name not in tables]
    if missing:
        raise NamesUnknown(
            f"the engine's operator names were not found: neither {' nor '.join(missing)}"
            " nor the functions that return their entries"
        )
    starts = {address for address, _ in tables.values()}
    texts = {
        name: _string_table(memory, *tables[name], starts)
        for name in ("GGML_OP_NAME", "GGML_UNARY_OP_NAME", "GGML_GLU_OP_NAME")
        if name in tables
    }
    ops = texts["GGML_OP_NAME"]
    if len(ops) < 10 or ops[0] != "NONE":
        raise NamesUnknown("the engine's table of operator names does not read like one")
    return OpNames(
        ops,
        _type_traits(memory, *tables["type_traits"], starts),
        texts.get("GGML_UNARY_OP_NAME", ()),
        texts.get("GGML_GLU_OP_NAME", ()),
    )


def _locate(memory: Memory, modules: Sequence[LiveModule], name: str, accessor: str) -> tuple[int, int] | None:
    """Live address and size (0 unknown) of a table."""
    for module in modules:
        symbol: Symbol | None = module.elf.symbols().get(name)
        if symbol is not None and symbol.address:
            return module.bias + symbol.address, symbol.size
    for module in modules:
        function: Symbol | None = module.elf.symbols().get(accessor)
        if function is None or not function.address:
            continue
        address = module.bias + function.address
        try:
            code = memory.read(address, min(function.size or 32, 64))
        except Unreadable:
            continue
        table = loaded_address(code, address, module.elf.machine)
        if table is not None:
            return table, 0
    return None


def read_version(memory: Memory, modules: Sequence[LiveModule]) -> str | None:
    """What `ggml_version()` and `ggml_commit()` would return, read from the strings whose addresses they load."""
    found = []
    for accessor in ("ggml_version", "ggml_commit"):
        location = _locate(memory, modules, accessor + "_string", accessor)
        if location is None:
            continue
        (text,) = memory.read_strings(np.array([location[0]], np.uint64), 64)
        if text and text.isprintable() and text != "unknown":  # the commit, in builds outside of git
            found.append(text)
    return " ".join(found) or None


def loaded_address(code: bytes, address: int, machine: str) -> int | None:
    """The address that a short accessor function loads: the start of the table that it indexes. None when not seen."""
    if machine == "aarch64":
        return _loaded_aarch64(code, address)
    for at in range(len(code) - 6):
        rex, opcode, modrm = code[at], code[at + 1], code[at + 2]
        if rex & 0xF8 != 0x48:
            continue
        if opcode == 0x8D and modrm & 0xC7 == 0x05:  # lea disp(%rip),%reg
            return address + at + 7 + int.from_bytes(code[at + 3 : at + 7], "little", signed=True)
        if opcode != 0x8B:
            continue
        if modrm & 0xC7 == 0x04 and at + 8 <= len(code) and code[at + 3] & 7 == 5:  # mov table(,%reg,8),%reg: not PIE
            return int.from_bytes(code[at + 4 : at + 8], "little")
        if modrm & 0xC0 == 0x80 and modrm & 7 != 4:  # mov table(%reg),%reg: not PIE
            return int.from_bytes(code[at + 3 : at + 7], "little")
    return None


def _loaded_aarch64(code: bytes, address: int) -> int | None:
    """adrp xN, page; add xN, xN, offset."""
    pages: dict[int, int] = {}
    for at in range(0, len(code) - 3, 4):
        word = int.from_bytes(code[at : at + 4], "little")
        if word & 0x9F000000 == 0x90000000:
            pages_off = ((word >> 5) & 0x7FFFF) << 2 | (word >> 29) & 3
            if pages_off >> 20:
                pages_off -= 1 << 21
            pages[word & 31] = ((address + at) & ~0xFFF) + (pages_off << 12)
        elif word & 0xFFC00000 == 0x91000000 and (word >> 5) & 31 in pages:
            return pages[(word >> 5) & 31] + ((word >> 10) & 0xFFF)
    return None


def _string_table(memory: Memory, address: int, size: int, starts: set[int]) -> tuple[str, ...]:
    """Names from an array of string pointers. Without a size it ends at the next table or at what is no new name."""
    limit = min(size // 8, _MAX_OPS) if size else _MAX_OPS
    if not size:
        limit = min([limit, *[(start - address) // 8 for start in starts if start > address]])
    pointers = _words_as_far_as_mapped(memory, address, limit)
    names: list[str] = []
    for text in memory.read_strings(pointers):
        if text is None or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", text) or (not size and text in names):
            if size and text is None:
                names.append(f"OP_{len(names)}")  # a hole in the table: keep the numbers of those behind it
                continue
            break
        names.append(text)
    return tuple(names)


def _type_traits(memory: Memory, address: int, size: int, starts: set[int]) -> tuple[TypeTrait, ...]:
    """The types, with the stride and the fields' places found from f32, f16 and q8_0."""
    limit = size or min([_MAX_TYPES * 160, *[start - address for start in starts if start > address]])
    words = _words_as_far_as_mapped(memory, address, min(limit, _MAX_TYPES * 160) // 8)
    texts = memory.read_strings(words)
    if not texts or texts[0] != "f32" or "f16" not in texts:
        raise NamesUnknown("the engine's table of tensor types does not read like one")
    stride = texts.index("f16")
    rows = words[: len(words) // stride * stride].reshape(-1, stride)
    names = texts[: len(rows) * stride : stride]
    if not size:  # retired numbers have neither name nor size; anything else without a name ends the table
        ends = [at for at, row in enumerate(rows) if names[at] is None and row.any()]
        rows = rows[: ends[0]] if ends else rows
    low = (rows & np.uint64(0xFFFFFFFF)).astype(np.int64)  # block sizes were 32-bit once
    known = {"f32": (1, 4), "f16": (1, 2), "q8_0": (32, None), "q4_0": (32, 18), "i32": (1, 4), "q4_K": (256, 144)}
    at_name = {name: at for at, name in enumerate(names[: len(rows)]) if name in known}
    block = _field(low, at_name, {name: pair[0] for name, pair in known.items()})
    bytes_at = _field(low, at_name, {name: pair[1] for name, pair in known.items()})
    if block is None or bytes_at is None:
        raise NamesUnknown("the engine's table of tensor types holds no sizes that flowprof understands")
    return tuple(
        TypeTrait(name or f"type_{at}", int(low[at, block]), int(low[at, bytes_at]))
        for at, name in enumerate(names[: len(rows)])
    )


def _field(low: np.ndarray, at_name: dict[str, int], want: dict[str, int | None]) -> int | None:
    """The first column in which every known type has the known value."""
    for column in range(1, low.shape[1]):
        if all(want[name] is None or low[at, column] == want[name] for name, at in at_name.items()):
            return column
    return None


def _words_as_far_as_mapped(memory: Memory, address: int, count: int) -> np.ndarray:
    """Up to `count` words; fewer where the mapping ends (each page is tried on its own)."""
    end = address + count * 8
    pieces = []
    at = address
    while at < end:
        stop = min((at // 4096 + 1) * 4096, end)
        try:
            pieces.append(memory.read(at, stop - at))
        except Unreadable:
            break
        at = stop
    raw = b"".join(pieces)
    return np.frombuffer(raw[: len(raw) // 8 * 8], dtype="<u8")
