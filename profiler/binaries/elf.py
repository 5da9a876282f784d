"""One ELF file with its symbols, PLT stubs, function bounds and separate debug file, all read lazily.

`elf_image.py` does the bounded reading beneath. Files without section headers have no symbols here: `strip` leaves them
in place, only packers remove them.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from flowprof.profiler.binaries import debug_file, eh_frame, plt
from flowprof.profiler.binaries.elf_image import (
    PT_DYNAMIC,
    PT_GNU_EH_FRAME,
    PT_INTERP,
    PT_NOTE,
    SHT_DYNSYM,
    SHT_NOBITS,
    SHT_RELA,
    SHT_SYMTAB,
    Array,
    ElfError,
    ElfImage,
    Section,
    Segment,
)
from flowprof.profiler.binaries.symbols import (
    SYM32,
    SYM64,
    NameTableTooLarge,
    RawSymbols,
    Source,
    Symbol,
    SymbolTable,
    names_of,
)

__all__ = ["ElfError", "ElfFile", "Section", "Segment", "Symbol", "SymbolTable"]

MAX_TABLES = 8
MAX_SYMBOLS = 4_000_000
MAX_NOTES = 1 << 16
MAX_SONAME = 256
DT_NULL, DT_STRTAB, DT_STRSZ, DT_SONAME, DT_FLAGS_1, DF_1_PIE = 0, 5, 10, 14, 0x6FFFFFFB, 0x08000000

_RELA = np.dtype([("offset", "u8"), ("info", "u8"), ("addend", "i8")])


class ElfFile(ElfImage):
    """One ELF file. `root` is the target's file system root (such as /proc/PID/root): its debug files are there."""

    def __init__(self, path: str, debug_dirs: tuple[str, ...] = (), root: str = "") -> None:
        super().__init__(path)
        self.debug_dirs = debug_dirs
        self.root = root.rstrip("/")

    @cached_property
    def build_id(self) -> str | None:
        """The GNU build-id in hex."""
        for p in self._phdrs[self._phdrs["type"] == PT_NOTE]:
            found = self._build_id_at(int(p["offset"]), int(p["filesz"]))
            if found:
                return found
        for s in self.sections:  # a separate debug file's program headers do not lead to its notes
            if s.name == ".note.gnu.build-id" and s.type != SHT_NOBITS:
                return self._build_id_at(s.offset, s.size)
        return None

    def _build_id_at(self, offset: int, size: int) -> str | None:
        try:
            return debug_file.build_id_note(self.bytes_at(offset, min(size, MAX_NOTES), "a note"), self.order)
        except ElfError:
            return None

    @cached_property
    def dynamic(self) -> dict[int, int]:
        """PT_DYNAMIC's entries, the first of each tag."""
        found: dict[int, int] = {}
        for p in self._phdrs[self._phdrs["type"] == PT_DYNAMIC]:
            count = min(int(p["filesz"]) // (self.bits // 4), 65536)
            entries = self.records_at(int(p["offset"]), [("tag", "A"), ("value", "A")], count, "its dynamic section")
            for tag, value in entries.tolist():
                if tag == DT_NULL:
                    break
                found.setdefault(tag, value)
        return found

    @property
    def soname(self) -> str:
        """The name that it asks to be linked by; "" where it has none."""
        at, strings, size = (self.dynamic.get(tag, 0) for tag in (DT_SONAME, DT_STRTAB, DT_STRSZ))
        try:
            name = self.read(strings + at, min(max(size - at, 0), MAX_SONAME)) if at and strings else b""
        except ElfError:
            return ""
        return name.partition(b"\0")[0].decode(errors="replace")

    def _has(self, kind: int) -> bool:
        return bool((self._phdrs["type"] == kind).any())

    @property
    def is_pie(self) -> bool:
        """A position-independent executable (a shared library is not one)."""
        shared = int(self._header["type"]) == 3
        return shared and (self._has(PT_INTERP) or bool(self.dynamic.get(DT_FLAGS_1, 0) & DF_1_PIE))

    @property
    def static(self) -> bool:
        """Linked statically: nothing loads further libraries for it."""
        return not self._has(PT_INTERP) and (not self._has(PT_DYNAMIC) or self.is_pie)

    @property
    def stripped(self) -> bool:
        """Without a .symtab of its own (a debug file may still have one)."""
        return not any(s.type == SHT_SYMTAB for s in self.sections)

    def _raw_symbols(self, kind: int, source: Source) -> list[RawSymbols]:
        tables = [s for s in self.sections if s.type == kind and s.link < len(self.sections)]
        return [RawSymbols(*self._table(s), source) for s in tables[:MAX_TABLES]]

    def _table(self, s: Section) -> tuple[Array, bytes]:
        dtype = self.ordered(SYM64 if self.bits == 64 else SYM32)
        if s.size // dtype.itemsize > MAX_SYMBOLS:
            raise ElfError(f"{self.path!r}: its section {s.name!r} would hold {s.size // dtype.itemsize} symbols")
        records = self.records_at(s.offset, dtype, s.size // dtype.itemsize, f"its section {s.name!r}")
        return records, self.section_bytes(self.sections[s.link])

    @cached_property
    def _symbols(self) -> SymbolTable:
        parts = self._raw_symbols(SHT_SYMTAB, "symtab") + self._raw_symbols(SHT_DYNSYM, "dynsym")
        debug = self.debug_file if self.stripped else None
        if debug is not None:
            parts += debug._raw_symbols(SHT_SYMTAB, "debug")
        try:
            return SymbolTable(parts)
        except NameTableTooLarge:
            raise ElfError(f"{self.path!r}: its symbol names are longer than the tables they are in") from None

    def symbols(self) -> SymbolTable:
        """Symbols of .symtab, then .dynsym, then (for a stripped file) of the separate debug file."""
        return self._symbols

    @cached_property
    def debug_file(self) -> ElfFile | None:
        """The separate debug file, by build-id, else by debug link (`debug_file.py` says where)."""
        link = self.section(".gnu_debuglink")
        wanted = debug_file.parse_link(self.section_bytes(link), self.order) if link and link.size < 1 << 16 else None
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

    def plt_names(self) -> dict[int, str]:
        """Every PLT stub's address and the name that it jumps to."""
        return dict(self._stubs)

    def plt_stubs(self, name: str) -> list[int]:
        """The addresses of all PLT stubs that jump to the name."""
        return [address for address, target in self._stubs.items() if target == name]

    def relocations(self) -> list[tuple[Array, list[bytes]]]:
        """The dynamic RELA records, each section with the names of the dynamic symbols that it refers to."""
        index = next((i for i, s in enumerate(self.sections) if s.type == SHT_DYNSYM), None)
        if self.bits != 64 or index is None or self.sections[index].link >= len(self.sections):
            return []
        try:
            names = names_of(*self._table(self.sections[index]))
        except NameTableTooLarge:
            raise ElfError(f"{self.path!r}: its symbol names are longer than the tables they are in") from None
        found = []
        for s in [s for s in self.sections if s.type == SHT_RELA and s.link == index][:MAX_TABLES]:
            records = self.records_at(s.offset, self.ordered(_RELA), s.size // _RELA.itemsize, f"section {s.name!r}")
            found.append((records, names))
        return found

    @cached_property
    def _functions(self) -> eh_frame.FunctionTable:
        at = self._phdrs[self._phdrs["type"] == PT_GNU_EH_FRAME]
        table = eh_frame.read_table(self, int(at[0]["vaddr"]), int(at[0]["filesz"])) if len(at) else eh_frame.EMPTY
        frames = self.section(".eh_frame")
        if len(table.starts) or frames is None or self.bits != 64 or self.order != "<":
            return table
        return eh_frame.walk_frames(self.section_bytes(frames), frames.address)

    def functions(self) -> list[tuple[int, int]]:
        """(start, size) of every function with unwind information: also in a stripped file."""
        return list(zip(self._functions.starts.tolist(), self._functions.sizes.tolist(), strict=True))

    def frame_entry(self, address: int) -> tuple[int, int] | None:
        """(start of the function that holds the address, address of the FDE that says how to leave it)."""
        return self._functions.entry(address)

    def function_bounds(self, address: int) -> tuple[int, int] | None:
        """(start, end) of the function that holds the address: by a symbol's size, else by the unwind information."""
        symbol = self.symbols().at(address)
        if symbol is not None and symbol.size and symbol.kind == "function":
            return symbol.address, symbol.address + symbol.size
        return self._functions.bounds(address)
