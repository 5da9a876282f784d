"""What unit tests share: minimal ELF files made by hand, for any machine, without its assembler."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

BASE = 0x10000
CODE_AT = 0x1000


def build(
    path: Path,
    functions: dict[str, bytes],
    machine: int = 62,
    sizes: dict[str, int] | None = None,
    data: bytes = b"",
    gap: int = 0,
) -> dict[str, int]:
    """Write an ELF64 file with the functions one after the other; returns their addresses.

    `sizes` overrides the size that a symbol states; `data` goes to a read-only segment at `BASE` (file offset 0x400).
    """
    code = b""
    addresses = {}
    for name, content in functions.items():
        addresses[name] = BASE + CODE_AT + len(code)
        code += content + b"\xcc" * (gap if gap else -len(content) % 16)
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in functions)
    symbols = bytes(24)
    at = 1
    for name, content in functions.items():
        size = (sizes or {}).get(name, len(content))
        symbols += struct.pack("<IBBHQQ", at, 0x12, 0, 1, addresses[name], size)
        at += len(name) + 1
    names = b"\0.text\0.symtab\0.strtab\0"
    assert len(data) <= CODE_AT - 0x400
    symbols_at = CODE_AT + len(code)
    strings_at = symbols_at + len(symbols)
    names_at = strings_at + len(strings)
    headers_at = names_at + len(names)
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (1, 1, 6, BASE + CODE_AT, CODE_AT, len(code), 0, 0, 16, 0),
        (7, 2, 0, 0, symbols_at, len(symbols), 3, 0, 8, 24),
        (15, 3, 0, 0, strings_at, len(strings), 0, 0, 1, 0),
        (15, 3, 0, 0, names_at, len(names), 0, 0, 1, 0),
    ]
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, headers_at, 0, 64, 56, 2, 64, len(sections), 4)
    segments = struct.pack("<IIQQQQQQ", 1, 4, 0, BASE, BASE, CODE_AT, CODE_AT, 4096)
    segments += struct.pack("<IIQQQQQQ", 1, 5, CODE_AT, BASE + CODE_AT, BASE + CODE_AT, len(code), len(code), 4096)
    head = (header + segments).ljust(0x400, b"\0") + data
    body = code + symbols + strings + names
    path.write_bytes(head.ljust(CODE_AT, b"\0") + body + b"".join(struct.pack("<IIQQQQIIQQ", *s) for s in sections))
    return addresses


@pytest.fixture(scope="session")
def build_elf() -> Callable[..., dict[str, int]]:
    """`build_elf(path, {"name": code}, machine=62, …)` writes an ELF64 file and returns the functions' addresses."""
    return build
