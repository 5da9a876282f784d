"""Names in expressions: an argument or a global variable as the debug information declares it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from flowprof.profiler.binaries import declarations
from flowprof.profiler.binaries.demangle import demangled
from flowprof.profiler.binaries.dwarf import Member
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.binaries.symbols import Symbol
from flowprof.profiler.resources.expression import (
    DECLARED,
    NAMED,
    NUMBER,
    REAL_ENDS,
    RETURN,
    ExpressionError,
    Kind,
    Step,
    Way,
    kind_of,
    readable,
)

WHOLE = (1, 2, 4, 8)  # bytes of numbers that are read
MAX_LOOKED_AT = 10_000  # symbols that are demangled, or compared with a name that is not there


def declared(way: Way, elf: ElfFile, function: str = "") -> Way:
    """The way without names: where it starts, and of which struct its first member is. function: a symbol.

    Raises ExpressionError, which says what is there.
    """
    if way.base == NAMED:
        names = [name for name, _ in _arguments(elf, function)]
        if way.symbol in names:
            return _in_register(replace(way, base=names.index(way.symbol) + 1, symbol=""), elf, function)
        if names and find_object(elf, way.symbol) is None:
            raise ExpressionError(
                f"neither an argument nor a variable {way.symbol}; whole numbers are {', '.join(names)}"
            )
        return _global(way, elf)
    if way.arguments or way.base == RETURN:
        return _in_register(way, elf, function)
    return _global(way, elf) if way.symbol and way.owner == DECLARED else way


def described(elf: ElfFile) -> Iterator[str]:
    """The files that may hold its debug information."""
    yield elf.path
    if elf.debug_file is not None:
        yield elf.debug_file.path


def find_object(elf: ElfFile, name: str) -> Symbol | None:
    """The symbol of a variable: by that name, demangled or as it is; of a function's own `static` the only one."""
    symbols = elf.symbols()
    found = symbols.get(name)
    if found is not None:
        return found
    last = re.escape(name.rpartition("::")[2])
    alike = [symbol for symbol in symbols.match(f".*{last}") if symbol.kind == "object"][:MAX_LOOKED_AT]
    names = demangled([symbol.name for symbol in alike])
    fits = [s for s in alike if names[s.name] == name or re.fullmatch(rf"{re.escape(name)}\.\d+", s.name)]
    return fits[0] if len({symbol.address for symbol in fits}) == 1 else None


def nearest(name: str, there: Sequence[str]) -> str:
    """`; there are …`: names like one that is not there."""
    alike = difflib.get_close_matches(name, dict.fromkeys(there[:MAX_LOOKED_AT]), 3, 0.7)
    return f"; there is {', '.join(alike)}" if alike else ""


def _arguments(elf: ElfFile, function: str) -> tuple[tuple[str, Member], ...]:
    if not function:
        return ()
    found = (declarations.registers(path, function, _short(function)) for path in described(elf))
    return next((arguments for arguments in found if arguments), ())


def _returned(elf: ElfFile, function: str) -> Member | None:
    if not function:
        return None
    return next(
        filter(None, (declarations.returned(path, function, _short(function)) for path in described(elf))), None
    )


def _short(function: str) -> str:
    """A symbol's name without namespaces and arguments."""
    return re.sub(r"\(.*", "", demangled([function])[function]).rpartition("::")[2]


def _in_register(way: Way, elf: ElfFile, function: str) -> Way:
    """Of what is not described the register is read as it is."""
    register = "ret" if way.base == RETURN else f"arg{way.base}"
    if way.base == RETURN:
        kind = _returned(elf, function)
    else:
        kind = dict(enumerate((kind for _, kind in _arguments(elf, function)), 1)).get(way.base)
    if way.owner != DECLARED:
        if kind is None or way.steps:
            return way
        if register == "ret" and (kind.real or kind.odd):
            raise ExpressionError(f"ret is a {kind.type}, which comes in no register that is read")
        return replace(way, kind=Kind(kind.size if kind.size in WHOLE else 8, kind.signed, kind.type, kind.source))
    if not way.members:
        way = replace(way, owner="")
        return _in_register(way, elf, function)
    if kind is None:
        raise ExpressionError(
            f"the debug information does not say what {register} is: cast(STRUCT, {register}).{way.members[0]}, "
            f"or *({register}+OFFSET):u32"
        )
    if not kind.pointer or not kind.target:
        raise ExpressionError(f"{register} is a {kind.type or 'value'}, which has no member {way.members[0]}")
    return replace(way, owner=kind.target)


def _global(way: Way, elf: ElfFile) -> Way:
    name = way.symbol
    symbol = find_object(elf, name)
    if symbol is None:
        objects = [symbol.name for symbol in elf.symbols().match(".") if symbol.kind == "object"]
        raise ExpressionError(f"there is no variable {name}{nearest(name, objects)}")
    last = re.sub(r"\.\d+$", "", name.rpartition("::")[2])
    found = (declarations.variable(path, last, symbol.address) for path in described(elf))
    kind = next(filter(None, found), None)
    named = way.base == NAMED  # its value, not its address
    way = replace(way, base=NUMBER, owner="", symbol=symbol.name)
    if way.members:
        if kind is None:
            where = f"*(global({symbol.name})+OFFSET):u32"
            raise ExpressionError(f"there is no debug information of {name}: its members are read as {where}")
        if not kind.target:
            raise ExpressionError(f"{name} is a {kind.type or 'number'}, which has no member {way.members[0]}")
        through = (Step(0, 8),) if kind.pointer else ()
        return replace(way, owner=kind.target, steps=through + way.steps)
    if not named:
        return way
    if kind is None:
        if symbol.size not in WHOLE:
            raise ExpressionError(f"{name} has {symbol.size} bytes and no debug information: *(global({name})):u32")
        return replace(way, steps=(Step(0, symbol.size, True), *way.steps))
    if kind.target and not kind.pointer:
        there = next(filter(None, (declarations.member_names(path, kind.target) for path in described(elf))), ())
        raise ExpressionError(f"{name} is a {kind.target}: name a member ({', '.join(there)})")
    if not readable(kind):
        raise ExpressionError(f"{name} is a {kind.type}, no number of 1, 2, 4 or 8 bytes")
    if kind.real and way.steps:
        raise ExpressionError(REAL_ENDS.format(name))
    steps = (Step(0, kind.size, kind.signed), *way.steps)
    return replace(way, steps=steps, kind=kind_of(kind))
