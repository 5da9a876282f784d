"""Symbol tables as numpy arrays: tens of milliseconds for tens of thousands of symbols.

A table merges up to three sources in the order in which they are trusted: `.symtab` (static functions too), `.dynsym`
(exports only) and a separate debug file's `.symtab`. Undefined, thread-local, section and file symbols are left out.
Names are the target's own bytes: decoded with replacement, cut at `MAX_NAME`, never executed or printed unescaped by
anyone here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any, Literal

import numpy as np

Source = Literal["symtab", "dynsym", "debug", "call graph"]
"""Where a symbol's address comes from; "call graph" is for those that a caller found in the code."""
Kind = Literal["function", "object", "other"]

MAX_NAME = 16384
MAX_STRINGS = 1 << 24
MAX_NAME_BYTES = 1 << 29

SYM64 = np.dtype([("name", "u4"), ("info", "u1"), ("other", "u1"), ("shndx", "u2"), ("value", "u8"), ("size", "u8")])
SYM32 = np.dtype([("name", "u4"), ("value", "u4"), ("size", "u4"), ("info", "u1"), ("other", "u1"), ("shndx", "u2")])

_KINDS: dict[int, Kind] = {0: "other", 1: "object", 2: "function", 10: "function"}


@dataclass(frozen=True, slots=True)
class Symbol:
    """One named address of the file. `address` is the link-time virtual address, `size` is in bytes (0: not stated)."""

    name: str
    address: int
    size: int
    source: Source
    kind: Kind = "function"


class NameTableTooLarge(Exception):  # noqa: N818
    """The names would need more memory than any real file's; `elf.py` turns this into an ElfError."""


@dataclass(frozen=True, slots=True)
class RawSymbols:
    """One symbol section as it is in the file: structured records and the string table they point into."""

    records: np.ndarray[Any, np.dtype[Any]]
    strings: bytes
    source: Source


class SymbolTable:
    """Lookup by name, pattern and address over the merged symbols."""

    def __init__(self, parts: list[RawSymbols]) -> None:
        self._parts = [(part, _defined(part.records)) for part in parts]
        kept = [records for _, records in self._parts]
        self._starts = np.cumsum([0, *(len(records) for records in kept)])
        self.addresses = _column(kept, "value")
        self.sizes = _column(kept, "size")
        self._names = [name for part, records in self._parts for name in names_of(records, part.strings)]
        self._types = np.concatenate([r["info"] & 15 for r in kept]) if kept else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self.addresses)

    @cached_property
    def _by_name(self) -> dict[bytes, int]:
        index = dict(zip(reversed(self._names), range(len(self) - 1, -1, -1), strict=True))
        index.pop(b"", None)
        return index

    def get(self, name: str) -> Symbol | None:
        """The symbol of that exact name, from the most trusted source that has it."""
        i = self._by_name.get(name.encode("utf-8", "surrogateescape"))
        return None if i is None else self._symbol(i)

    def match(self, pattern: str) -> list[Symbol]:
        """The symbols whose name matches the regular expression from its beginning, by address, none twice."""
        matching = compress(range(len(self)), map(re.compile(pattern.encode()).match, self._names))
        found = {(self.addresses[i].item(), self._names[i]): i for i in reversed(list(matching))}
        return [self._symbol(found[key]) for key in sorted(found)]

    @cached_property
    def _order(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Indices by address; at equal addresses functions come last, the most trusted source the very last."""
        trust = -np.arange(len(self))
        return np.lexsort((trust, self._types == 2, self.sizes > 0, self.addresses))

    @cached_property
    def _sorted_addresses(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        return np.asarray(self.addresses[self._order])

    def at(self, address: int) -> Symbol | None:
        """The symbol that starts at the address or whose size covers it."""
        if not 0 <= address < 1 << 64:
            return None
        position = int(np.searchsorted(self._sorted_addresses, np.uint64(address), side="right"))
        for i in self._order[max(0, position - 8) : position][::-1].tolist():
            start, size = self.addresses[i].item(), self.sizes[i].item()
            if start == address or start < address < start + size:
                return self._symbol(i)
        return None

    def _symbol(self, i: int) -> Symbol:
        part = self._parts[int(np.searchsorted(self._starts, i, side="right")) - 1][0]
        return Symbol(
            self._names[i].decode("utf-8", "replace"),
            self.addresses[i].item(),
            self.sizes[i].item(),
            part.source,
            _KINDS.get(int(self._types[i]), "other"),
        )


def names_of(records: np.ndarray[Any, np.dtype[Any]], strings: bytes) -> list[bytes]:
    """The name of every record. Raises NameTableTooLarge where overlapping names would fill the memory."""
    text = np.frombuffer(strings, np.uint8)
    if np.count_nonzero(text == 0) > MAX_STRINGS:
        raise NameTableTooLarge
    ends = np.append(np.flatnonzero(text == 0), len(strings))
    first = np.minimum(records["name"].astype(np.int64), len(strings))
    last = np.minimum(ends[np.searchsorted(ends, first)], first + MAX_NAME)
    if int((last - first).sum()) > MAX_NAME_BYTES:
        raise NameTableTooLarge
    return [strings[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]


def _defined(records: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """Symbols with an address in this file: not undefined or absolute, no section, file or thread-local ones."""
    kind, section = records["info"] & 15, records["shndx"]
    kept = (section != 0) & (section != 0xFFF1) & ((kind <= 2) | (kind == 10))
    return np.asarray(records[kept])


def _column(parts: list[np.ndarray[Any, np.dtype[Any]]], name: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    if not parts:
        return np.zeros(0, np.uint64)
    return np.concatenate([records[name].astype(np.uint64) for records in parts])
