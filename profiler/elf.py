"""One ELF file: its headers, symbols, PLT stubs and function bounds, all read lazily and all distrusted.

The file belongs to the target, so every size and offset in it is checked against the file before it is used, and
anything that does not fit ends in `ElfError` with a sentence, never in another exception. It is read with `pread` in
bounded pieces: a 434 MB library costs only its tables, and a file that shrinks meanwhile gives an error where a
mapping would give SIGBUS.

Addresses are link-time virtual addresses. A uprobe wants the file offset instead: `offset = address - p_vaddr +
p_offset` of the PT_LOAD that holds the address (`file_offset`).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from flowprof.profiler import debug_file, eh_frame, plt
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.symbols import SYM32, SYM64, NameTableTooLarge, RawSymbols, Source, Symbol, SymbolTable

__all__ = ["ElfError", "ElfFile", "Section", "Segment", "Symbol", "SymbolTable"]

Array = np.ndarray[Any, np.dtype[Any]]

MAX_READ = 1 << 28
MAX_HEADERS = 4096
MACHINES = {62: "x86-64", 183: "aarch64", 3: "x86", 40: "arm", 243: "riscv", 21: "ppc64", 22: "s390", 258: "loongarch"}

_EHDR = [("type", "u2"), ("machine", "u2"), ("version", "u4"), ("entry", "A"), ("phoff", "A"), ("shoff", "A"), ("flags", "u4"),
         ("ehsize", "u2"), ("phentsize", "u2"), ("phnum", "u2"), ("shentsize", "u2"), ("shnum", "u2"), ("shstrndx", "u2")]  # fmt: skip
_PHDR64 = [("type", "u4"), ("flags", "u4"), ("offset", "u8"), ("vaddr", "u8"), ("paddr", "u8"), ("filesz", "u8"),
           ("memsz", "u8"), ("align", "u8")]  # fmt: skip
_PHDR32 = [("type", "u4"), ("offset", "u4"), ("vaddr", "u4"), ("paddr", "u4"), ("filesz", "u4"), ("memsz", "u4"),
           ("flags", "u4"), ("align", "u4")]  # fmt: skip
_SHDR = [("name", "u4"), ("type", "u4"), ("flags", "A"), ("addr", "A"), ("offset", "A"), ("size", "A"), ("link", "u4"),
         ("info", "u4"), ("addralign", "A"), ("entsize", "A")]  # fmt: skip
_RELA = np.dtype([("offset", "u8"), ("info", "u8"), ("addend", "i8")])

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_GNU_EH_FRAME = 1, 2, 3, 4, 0x6474E550
SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_DYNSYM = 2, 3, 4, 8, 11
DT_NULL, DT_FLAGS_1, DF_1_PIE = 0, 0x6FFFFFFB, 0x08000000


class ElfError(FlowprofError):
    """The file is not an ELF file, is cut short, or contradicts itself."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Section:
    """A section header with its name resolved. `offset` and `size` in bytes of the file."""

    name: str
    type: int
    address: int
    offset: int
    size: int
    link: int
    entry_size: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD: what of the file is mapped where."""

    address: int
    offset: int
    file_size: int
    executable: bool
    writable: bool


class ElfFile:
    """One ELF file, opened once. `root` is the target's file system root (such as /proc/PID/root) for its debug files."""

    def __init__(self, path: str, debug_dirs: tuple[str, ...] = (), root: str = "") -> None:
        self.path = path
        self.debug_dirs = debug_dirs
        self.root = root.rstrip("/")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as e:
            raise ElfError(f"cannot open {path!r}: {getattr(e, 'strerror', None) or e}") from None
        self._file = open(fd, "rb", buffering=0)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ElfError(f"{path!r} is not a regular file")
        self.size = status.st_size
        ident = self._bytes(0, 16, "its identification")
        if ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise ElfError(f"{path!r} is not an ELF file")
        self.bits = 64 if ident[4] == 2 else 32
        self._order: Literal["<", ">"] = "<" if ident[5] == 1 else ">"
        self._header = self._records(16, _EHDR, 1, "its header")[0]
        number = int(self._header["machine"])
        self.machine = (
            MACHINES.get(number, f"machine {number}") if self._order == "<" else f"big-endian machine {number}"
        )
        self._phdrs = self._headers("ph", _PHDR64 if self.bits == 64 else _PHDR32)

    def __enter__(self) -> ElfFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was read lazily stays usable."""
        self._file.close()

    # -- reading, bounded -------------------------------------------------------------------------------------------------

    def _bytes(self, offset: int, size: int, what: str) -> bytes:
        if size < 0 or size > MAX_READ:
            raise ElfError(f"{self.path!r}: {what} would be {size} bytes long")
        if offset < 0 or offset + size > self.size:
            raise ElfError(f"{self.path!r} is cut short: {what} should lie at {offset:#x}, {size} bytes long")
        pieces: list[bytes] = []
        end = offset + size
        try:
            while offset < end:
                piece = os.pread(self._file.fileno(), end - offset, offset)
                if not piece:
                    raise ElfError(f"{self.path!r} shrank while it was read")
                pieces.append(piece)
                offset += len(piece)
        except (OSError, ValueError) as e:
            raise ElfError(f"cannot read {self.path!r}: {getattr(e, 'strerror', None) or e}") from None
        return b"".join(pieces)

    def _dtype(self, fields: list[tuple[str, str]] | np.dtype[Any]) -> np.dtype[Any]:
        if isinstance(fields, list):
            fields = np.dtype([(n, f"u{self.bits // 8}" if t == "A" else t) for n, t in fields])
        return fields.newbyteorder(self._order)

    def _records(self, offset: int, fields: list[tuple[str, str]] | np.dtype[Any], count: int, what: str) -> Array:
        dtype = self._dtype(fields)
        return np.frombuffer(self._bytes(offset, count * dtype.itemsize, what), dtype)

    def _headers(self, kind: str, fields: list[tuple[str, str]]) -> Array:
        h, dtype = self._header, self._dtype(fields)
        offset, count, size = int(h[f"{kind}off"]), int(h[f"{kind}num"]), int(h[f"{kind}entsize"])
        what = "its program headers" if kind == "ph" else "its section headers"
        if kind == "sh" and offset and count == 0:  # more than 65 279 sections: the number is in the first one
            count = int(self._records(offset, fields, 1, what)[0]["size"])
        if not offset or not count:
            return np.zeros(0, dtype)
        if size != dtype.itemsize or count > MAX_HEADERS * (16 if kind == "sh" else 1):
            raise ElfError(f"{self.path!r}: {what} have an impossible form ({count} of {size} bytes)")
        return self._records(offset, fields, count, what)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the file at a virtual address, as linked (not relocated); at most 256 MiB, inside one PT_LOAD."""
        segment = self._segment_of(address)
        if size < 0 or address + size > segment.address + segment.file_size:
            raise ElfError(f"{self.path!r}: {size} bytes at {address:#x} reach beyond what the file holds there")
        return self._bytes(address - segment.address + segment.offset, size, f"the code or data at {address:#x}")

    # -- headers ----------------------------------------------------------------------------------------------------------

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The PT_LOADs, by address."""
        loads = self._phdrs[self._phdrs["type"] == PT_LOAD]
        found = [
            Segment(int(p["vaddr"]), int(p["offset"]), int(p["filesz"]), bool(p["flags"] & 1), bool(p["flags"] & 2))
            for p in loads
        ]
        return tuple(sorted(found, key=lambda s: s.address))

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections; none in a file whose section headers were stripped."""
        raw = self._headers("sh", _SHDR)
        index = int(self._header["shstrndx"])
        index = int(raw[0]["link"]) if index == 0xFFFF and len(raw) else index
        names = (
            self._bytes(int(raw[index]["offset"]), int(raw[index]["size"]), "its section names")
            if index < len(raw)
            else b""
        )
        columns = [raw[c].tolist() for c in ("name", "type", "addr", "offset", "size", "link", "entsize")]
        return tuple(Section(_name(names, at), *rest) for at, *rest in zip(*columns, strict=True))

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((s for s in self.sections if s.name == name), None)

    def section_bytes(self, section: Section) -> bytes:
        """A section's content; empty for one that takes no room in the file."""
        if section.type == SHT_NOBITS:
            return b""
        return self._bytes(section.offset, section.size, f"its section {section.name!r}")

    def _segment_of(self, address: int) -> Segment:
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.file_size:
                return segment
        raise ElfError(f"{self.path!r} has nothing at address {address:#x}")

    def file_offset(self, address: int) -> int:
        """Where in the file the byte at this address is: what a uprobe wants."""
        segment = self._segment_of(address)
        return address - segment.address + segment.offset

    def address_of_offset(self, offset: int) -> int:
        """The inverse of `file_offset`."""
        for segment in self.segments:
            if segment.offset <= offset < segment.offset + segment.file_size:
                return offset - segment.offset + segment.address
        raise ElfError(f"{self.path!r}: no part that is mapped holds file offset {offset:#x}")

    def executable(self, address: int) -> bool:
        """Whether the address lies in a segment that holds code."""
        return any(s.executable and s.address <= address < s.address + s.file_size for s in self.segments)

    @cached_property
    def build_id(self) -> str | None:
        """The GNU build-id in hex."""
        for p in self._phdrs[self._phdrs["type"] == PT_NOTE]:
            found = debug_file.build_id_note(
                self._bytes(int(p["offset"]), min(int(p["filesz"]), 1 << 16), "a note"), self._order
            )
            if found:
                return found
        for s in self.sections:  # a separate debug file's program headers do not lead to its notes
            if s.name == ".note.gnu.build-id" and s.type != SHT_NOBITS:
                return debug_file.build_id_note(self.section_bytes(s), self._order)
        return None

    @cached_property
    def dynamic(self) -> dict[int, int]:
        """PT_DYNAMIC's entries, the first of each tag."""
        found: dict[int, int] = {}
        for p in self._phdrs[self._phdrs["type"] == PT_DYNAMIC]:
            count = min(int(p["filesz"]) // (self.bits // 4), 65536)
            for tag, value in self._records(
                int(p["offset"]), [("tag", "A"), ("value", "A")], count, "its dynamic section"
            ).tolist():
                if tag == DT_NULL:
                    break
                found.setdefault(tag, value)
        return found

    def _has(self, kind: int) -> bool:
        return bool((self._phdrs["type"] == kind).any())

    @property
    def is_pie(self) -> bool:
        """A position-independent executable (a shared library is not one)."""
        return int(self._header["type"]) == 3 and (
            self._has(PT_INTERP) or bool(self.dynamic.get(DT_FLAGS_1, 0) & DF_1_PIE)
        )

    @property
    def static(self) -> bool:
        """Linked statically: nothing loads further libraries for it."""
        return not self._has(PT_INTERP) and (not self._has(PT_DYNAMIC) or self.is_pie)

    @property
    def stripped(self) -> bool:
        """Without a .symtab of its own (a debug file may still have one)."""
        return not any(s.type == SHT_SYMTAB for s in self.sections)

    # -- symbols, stubs, functions ----------------------------------------------------------------------------------------

    def _raw_symbols(self, kind: int, source: Source) -> list[RawSymbols]:
        parts = []
        for s in self.sections:
            if s.type == kind and s.link < len(self.sections):
                dtype = self._dtype(SYM64 if self.bits == 64 else SYM32)
                records = self._records(s.offset, dtype, s.size // dtype.itemsize, f"its section {s.name!r}")
                parts.append(RawSymbols(records, self.section_bytes(self.sections[s.link]), source))
        return parts

    @cached_property
    def _symbols(self) -> SymbolTable:
        parts = self._raw_symbols(SHT_SYMTAB, "symtab") + self._raw_symbols(SHT_DYNSYM, "dynsym")
        debug = self.debug_file if self.stripped else None
        if debug is not None:
            parts += debug._raw_symbols(SHT_SYMTAB, "debug")
        table = SymbolTable(parts)
        try:
            table.get("")  # builds the names here, so that whatever is wrong with them is found here
        except NameTableTooLarge:
            raise ElfError(f"{self.path!r}: its symbol names are longer than the tables they are in") from None
        return table

    def symbols(self) -> SymbolTable:
        """Symbols of .symtab, then .dynsym, then (for a stripped file) of the separate debug file."""
        return self._symbols

    @cached_property
    def debug_file(self) -> ElfFile | None:
        """The separate debug file: by build-id, then by debug link, below `debug_dirs`, /usr/lib/debug and the target's root."""
        link = self.section(".gnu_debuglink")
        wanted = debug_file.parse_link(self.section_bytes(link), self._order) if link and link.size < 1 << 16 else None
        for candidate in debug_file.candidates(self.path, self.build_id, wanted, self.debug_dirs, self.root):
            try:
                found = ElfFile(candidate)
                if debug_file.belongs(candidate, found.build_id, self.build_id, wanted):
                    return found
            except ElfError:
                continue  # not there, or not what its name says
        return None

    @cached_property
    def _stubs(self) -> dict[int, str]:
        return plt.stubs(self)

    def plt_target(self, address: int) -> str | None:
        """The name that the PLT stub at this address jumps to."""
        return self._stubs.get(address)

    def plt_stubs(self, name: str) -> list[int]:
        """The addresses of all PLT stubs that jump to the name."""
        return [address for address, target in self._stubs.items() if target == name]

    def relocations(self) -> list[tuple[Array, list[bytes]]]:
        """The dynamic RELA records, each section with the names of the symbol table it refers to."""
        found = []
        for s in self.sections:
            if (
                s.type == SHT_RELA
                and self.bits == 64
                and s.link < len(self.sections)
                and self.sections[s.link].type == SHT_DYNSYM
            ):
                records = self._records(s.offset, _RELA, s.size // _RELA.itemsize, f"its section {s.name!r}")
                found.append((records, self._dynamic_names(s.link)))
        return found

    def _dynamic_names(self, index: int) -> list[bytes]:
        section = self.sections[index]
        dtype = self._dtype(SYM64)
        records = self._records(section.offset, dtype, section.size // dtype.itemsize, "its dynamic symbols")
        strings = self.section_bytes(self.sections[section.link]) if section.link < len(self.sections) else b""
        return [_name_bytes(strings, at) for at in records["name"].tolist()]

    @cached_property
    def _functions(self) -> eh_frame.FunctionTable:
        at = self._phdrs[self._phdrs["type"] == PT_GNU_EH_FRAME]
        return eh_frame.read_table(self, int(at[0]["vaddr"]), int(at[0]["filesz"])) if len(at) else eh_frame.EMPTY

    def functions(self) -> list[tuple[int, int]]:
        """(start, size) of every function with unwind information: also in a stripped file."""
        return list(zip(self._functions.starts.tolist(), self._functions.sizes.tolist(), strict=True))

    def function_bounds(self, address: int) -> tuple[int, int] | None:
        """(start, end) of the function that holds the address: from a symbol's size, else from the unwind information."""
        symbol = self.symbols().at(address)
        if symbol is not None and symbol.size and symbol.kind == "function":
            return symbol.address, symbol.address + symbol.size
        return self._functions.bounds(address)


def _name_bytes(strings: bytes, at: int) -> bytes:
    end = strings.find(b"\0", at, at + 16384)
    return strings[at : end if end >= 0 else at + 16384]


def _name(strings: bytes, at: int) -> str:
    return _name_bytes(strings, at).decode("utf-8", "replace")
