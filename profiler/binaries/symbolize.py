"""Functions and source lines of addresses in a file, offline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from flowprof.profiler.binaries.demangle import demangled
from flowprof.profiler.binaries.elf import ElfError, ElfFile
from flowprof.profiler.binaries.line_table import LineTable
from flowprof.profiler.binaries.module_code import code_of
from flowprof.profiler.target import Module

_MAX_TABLES = 32


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of an address: the function, demangled, and file:line of the source; None unknown.

    A function that was inlined has its own source line, and the name of the function that it is in.
    """

    function: str | None
    source: str | None


def symbolize(module: Module, addresses: Iterable[int]) -> dict[int, Place]:
    """Address, as the file's headers count, → place. Best asked for many at a time."""
    code, wanted = code_of(module), sorted(set(addresses))
    symbols = {address: code.symbol(address) for address in wanted}
    names = demangled([symbol.name for symbol in symbols.values() if symbol])
    table = _line_table(code.elf) if code.elf else None
    lines = table.lines(wanted) if table else {}
    return {a: Place(names[symbol.name] if symbol else None, lines.get(a)) for a, symbol in symbols.items()}


@lru_cache(maxsize=_MAX_TABLES)
def _line_table(elf: ElfFile) -> LineTable | None:
    """The line table of the file, or of its separate debug file."""
    try:
        described = elf if elf.section(".debug_line") else elf.debug_file
        return LineTable(described) if described else None
    except ElfError:
        return None
