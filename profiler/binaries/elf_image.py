"""An ELF file's bytes, headers, sections and segments: bounded reading of a file that nobody trusts.

The file belongs to the target, so every size and offset in it is checked against the file before it is used, and
anything that does not fit ends in `ElfError` with a sentence, never in another exception. It is read with `pread` in
bounded pieces: a 434 MB library costs only its tables, and a file that shrinks meanwhile gives an error where a
mapping would give SIGBUS.

Addresses are link-time virtual addresses. A uprobe wants the file offset instead: `offset = address - p_vaddr +
p_offset` of the PT_LOAD that holds the address (`file_offset`).
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.untrusted_file import open_plain

Array = np.ndarray[Any, np.dtype[Any]]

MAX_READ = 1 << 28
MAX_SEGMENTS = 4096
MAX_SECTIONS = 65536
MAX_SECTION_NAME = 256
MAX_ADDRESS = 1 << 62
MACHINES = {62: "x86-64", 183: "aarch64", 3: "x86", 40: "arm", 243: "riscv", 21: "ppc64", 22: "s390", 258: "loongarch"}

# A is an address: 4 or 8 bytes
_EHDR = [("type", "u2"), ("machine", "u2"), ("version", "u4"), ("entry", "A"), ("phoff", "A"), ("shoff", "A"),
         ("flags", "u4"), ("ehsize", "u2"), ("phentsize", "u2"), ("phnum", "u2"), ("shentsize", "u2"), ("shnum", "u2"),
         ("shstrndx", "u2")]  # fmt: skip
_PHDR64 = [("type", "u4"), ("flags", "u4"), ("offset", "u8"), ("vaddr", "u8"), ("paddr", "u8"), ("filesz", "u8"),
           ("memsz", "u8"), ("align", "u8")]  # fmt: skip
_PHDR32 = [("type", "u4"), ("offset", "u4"), ("vaddr", "u4"), ("paddr", "u4"), ("filesz", "u4"), ("memsz", "u4"),
           ("flags", "u4"), ("align", "u4")]  # fmt: skip
_SHDR = [("name", "u4"), ("type", "u4"), ("flags", "A"), ("addr", "A"), ("offset", "A"), ("size", "A"), ("link", "u4"),
         ("info", "u4"), ("addralign", "A"), ("entsize", "A")]  # fmt: skip

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_GNU_EH_FRAME = 1, 2, 3, 4, 0x6474E550
SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_DYNSYM = 2, 3, 4, 8, 11
SHF_COMPRESSED, _ZLIB = 0x800, 1


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
    compressed: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD: what of the file is mapped where."""

    address: int
    offset: int
    file_size: int
    executable: bool
    writable: bool


class ElfImage:
    """One ELF file, opened once and read in pieces."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file = open(open_plain(path), "rb", buffering=0)  # noqa: SIM115 (open as long as the object lives)
        except OSError as e:
            raise ElfError(f"cannot open {path!r}: {e.strerror}") from None
        self.size = os.fstat(self._file.fileno()).st_size
        ident = self.bytes_at(0, 16, "its identification")
        if ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise ElfError(f"{path!r} is not an ELF file")
        self.bits = 64 if ident[4] == 2 else 32
        self.order: Literal["<", ">"] = "<" if ident[5] == 1 else ">"
        self._header = self.records_at(16, _EHDR, 1, "its header")[0]
        number = int(self._header["machine"])
        self.machine = MACHINES.get(number, f"machine {number}") if self.order == "<" else f"big-endian {number}"
        self._phdrs = self._headers("ph", _PHDR64 if self.bits == 64 else _PHDR32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was read lazily stays usable."""
        self._file.close()

    def bytes_at(self, offset: int, size: int, what: str) -> bytes:
        """Bytes at a file offset; `what` names them in the error."""
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

    def ordered(self, fields: list[tuple[str, str]] | np.dtype[Any]) -> np.dtype[Any]:
        """The record type in the file's byte order and word size."""
        if isinstance(fields, list):
            fields = np.dtype([(n, f"u{self.bits // 8}" if t == "A" else t) for n, t in fields])
        return fields.newbyteorder(self.order)

    def records_at(self, offset: int, fields: list[tuple[str, str]] | np.dtype[Any], count: int, what: str) -> Array:
        """Records at a file offset as a structured array."""
        dtype = self.ordered(fields)
        return np.frombuffer(self.bytes_at(offset, count * dtype.itemsize, what), dtype)

    def _headers(self, kind: str, fields: list[tuple[str, str]]) -> Array:
        h, dtype = self._header, self.ordered(fields)
        offset, count, size = int(h[f"{kind}off"]), int(h[f"{kind}num"]), int(h[f"{kind}entsize"])
        what = "its program headers" if kind == "ph" else "its section headers"
        if kind == "sh" and offset and count == 0:  # more than 65 279 sections: the number is in the first one
            count = int(self.records_at(offset, fields, 1, what)[0]["size"])
        if not offset or not count:
            return np.zeros(0, dtype)
        if size != dtype.itemsize or count > (MAX_SEGMENTS if kind == "ph" else MAX_SECTIONS):
            raise ElfError(f"{self.path!r}: {what} have an impossible form ({count} of {size} bytes)")
        return self.records_at(offset, fields, count, what)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the file at a virtual address, as linked (not relocated); at most 256 MiB, inside one PT_LOAD."""
        segment = self._segment_of(address)
        if size < 0 or address + size > segment.address + segment.file_size:
            raise ElfError(f"{self.path!r}: {size} bytes at {address:#x} reach beyond what the file holds there")
        return self.bytes_at(address - segment.address + segment.offset, size, f"the code or data at {address:#x}")

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The PT_LOADs, by address."""
        loads = self._phdrs[self._phdrs["type"] == PT_LOAD]
        found = [
            Segment(int(p["vaddr"]), int(p["offset"]), int(p["filesz"]), bool(p["flags"] & 1), bool(p["flags"] & 2))
            for p in loads
        ]
        if any(s.address + s.file_size > MAX_ADDRESS for s in found):
            raise ElfError(f"{self.path!r} wants to be loaded where no program can be")
        return tuple(sorted(found, key=lambda s: s.address))

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections; none in a file whose section headers were stripped."""
        raw = self._headers("sh", _SHDR)
        index = int(self._header["shstrndx"])
        index = int(raw[0]["link"]) if index == 0xFFFF and len(raw) else index
        names = b""
        if index < len(raw):
            names = self.bytes_at(int(raw[index]["offset"]), int(raw[index]["size"]), "its section names")
        columns = [raw[c].tolist() for c in ("name", "type", "addr", "offset", "size", "link", "entsize")]
        columns.append((raw["flags"] & SHF_COMPRESSED != 0).tolist())
        return tuple(Section(_name(names, at), *rest) for at, *rest in zip(*columns, strict=True))

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((s for s in self.sections if s.name == name), None)

    def section_bytes(self, section: Section) -> bytes:
        """A section's content, decompressed; empty for one that takes no room in the file."""
        if section.type == SHT_NOBITS:
            return b""
        content = self.bytes_at(section.offset, section.size, f"its section {section.name!r}")
        return self._decompressed(section, content) if section.compressed else content

    def _decompressed(self, section: Section, content: bytes) -> bytes:
        header = 24 if self.bits == 64 else 12  # Elf_Chdr begins with the kind, and has the size after a word
        try:
            kind = int(np.frombuffer(content, self.order + "u4", 1)[0])
            size = int(np.frombuffer(content[self.bits // 8 :], f"{self.order}u{self.bits // 8}", 1)[0])
            if kind != _ZLIB or size > MAX_READ:
                raise ElfError(
                    f"{self.path!r}: its section {section.name!r} is compressed in an unknown way, or too large"
                )
            return zlib.decompressobj().decompress(content[header:], size or 1)  # 0 would be no limit
        except (ValueError, zlib.error):
            raise ElfError(f"{self.path!r}: its section {section.name!r} cannot be decompressed") from None

    def _segment_of(self, address: int) -> Segment:
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.file_size:
                return segment
        raise ElfError(f"{self.path!r} has nothing at address {address:#x}")

    def file_offset(self, address: int) -> int:
        """Where in the file the byte at this address is: what a uprobe wants."""
        segment = self._segment_of(address)
        return address - segment.address + segment.offset

    def address_of(self, offset: int) -> int | None:
        """The address of the byte at this place in the file; None: no code is loaded from there."""
        for s in self.segments:
            if s.executable and s.offset <= offset < s.offset + s.file_size:
                return offset - s.offset + s.address
        return None

    def executable(self, address: int) -> bool:
        """Whether the address lies in a segment that holds code."""
        return any(s.executable and s.address <= address < s.address + s.file_size for s in self.segments)


def _name(strings: bytes, at: int) -> str:
    end = strings.find(b"\0", at, at + MAX_SECTION_NAME)
    return strings[at : end if end >= 0 else at + MAX_SECTION_NAME].decode("utf-8", "replace")
