"""What a function calls: for functions that have no symbol of their own, and for those that another one tells of."""

from __future__ import annotations

from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.binaries.symbols import Symbol
from flowprof.profiler.planning.callgraph import references


def called(elf: ElfFile, function: int) -> set[int]:
    """Where its direct calls and its jumps elsewhere lead; in the same file."""
    return {one.target for one in references(elf, function) if one.kind != "pointer"}


def only_callee(elf: ElfFile, caller: Symbol) -> Symbol | None:
    """The one function that it calls, or to which alone it leaves its work. None: there are several, or none.

    Jumps beside a call lead to parts of the function that lie elsewhere.
    """
    found = references(elf, caller.address)
    for kind in ("call", "jump"):
        targets = {one.target for one in found if one.kind == kind}
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
