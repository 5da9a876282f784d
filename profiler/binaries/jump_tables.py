"""Where the jump tables of an x86-64 function may lead: more places than they really do, never fewer.

Compilers turn a `switch` into `lea table(%rip)`, `movslq (table,index,4)`, `add`, `jmp *reg`. Which table belongs to
which jump and how long it is is not worked out: every `lea` constant is read as such a table as long as its entries
lead into code. That proves what is wanted, that no table leads to a certain place. Other indirect jumps leave the
question open, except those through a plain field of a structure (`jmp *0x18(%rax)`): a virtual tail call, no switch.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from flowprof.profiler.binaries.disassembly import direct_target, lea_target, sweep

if TYPE_CHECKING:
    from flowprof.profiler.binaries.elf import ElfFile

MAX_ENTRIES = 4096
LOOK_BACK = 12


def table_landings(elf: ElfFile, code: bytes, address: int, low: int, high: int) -> list[int] | None:
    """Addresses in [low, high] that some table may lead to; None where an indirect jump is not of the known form."""
    tables: set[int] = set()
    recent: deque[str] = deque(maxlen=LOOK_BACK)
    for at, size, verb, text in sweep(elf.machine, code, address):
        if verb.rsplit(" ", 1)[-1] == "jmp" and direct_target(text) is None and not _understood(text, recent):
            return None
        target = lea_target(at + size, verb, text)
        if target is not None:
            tables.add(target)
        recent.append(f"{verb} {text}")
    found: set[int] = set()
    for table in tables:
        found.update(a for a in _entries(elf, table) if low <= a <= high)
    return sorted(found)


def _understood(goal: str, recent: deque[str]) -> bool:
    """Whether an indirect jump goes through a table of the known form, or to a function in a structure's field."""
    if "[" not in goal:
        goal = next((line for line in reversed(recent) if line.partition(" ")[2].split(",")[0] == goal), "")
        if goal.startswith("add "):
            return any(line.startswith("movsxd") and "*4" in line for line in recent)
        if not goal.startswith("mov "):
            return False
    return "[r" in goal and "*" not in goal and "[rsp" not in goal and "[rbp" not in goal


def _entries(elf: ElfFile, table: int) -> list[int]:
    segment = next((s for s in elf.segments if s.address <= table < s.address + s.file_size), None)
    if segment is None or segment.writable:
        return []
    count = min(MAX_ENTRIES, (segment.address + segment.file_size - table) // 4)
    goals = np.frombuffer(elf.read(table, count * 4), "<i4").astype(np.int64) + table
    inside = np.zeros(len(goals), bool)
    for s in elf.segments:
        if s.executable:
            inside |= (goals >= s.address) & (goals < s.address + s.file_size)
    outside = np.flatnonzero(~inside)
    return [int(a) for a in goals[: int(outside[0]) if len(outside) else len(goals)]]
