"""What a function calls: for functions that have no symbol of their own, and for those that another one tells of."""

from __future__ import annotations

from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.binaries.symbols import Symbol
from flowprof.profiler.planning.callgraph import references


def called(elf: ElfFile, function: int) -> set[int]:
    """Functions of the same file that it calls or ends in, directly or by a stub."""
    return {_behind_stub(elf, one.target) for one in references(elf, function) if one.kind != "pointer"}


def only_callee(elf: ElfFile, caller: Symbol) -> Symbol | None:
    """The one function that it calls, or to which alone it leaves its work. None: there are several, or none.

    Jumps beside a call lead to parts of the function that lie elsewhere.
    """
    found = references(elf, caller.address)
    for kind in ("call", "jump"):
        targets = {_behind_stub(elf, one.target) for one in found if one.kind == kind}
        if targets:
            target = targets.pop()
            bounds = elf.function_bounds(target)
            if targets or bounds is None or bounds[0] != target:
                return None
            known = elf.symbols().at(target)
            if known is not None and known.address == target:
                return known
            return Symbol(f"callee of {caller.name}", target, bounds[1] - target, caller.source)
    return None


def _behind_stub(elf: ElfFile, target: int) -> int:
    """An exported function is called by a stub of the PLT, also in its own file."""
    symbol = elf.symbols().get(elf.plt_target(target) or "")
    return target if symbol is None else symbol.address
