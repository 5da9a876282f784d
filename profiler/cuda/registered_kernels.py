"""Kernels of a stripped library, by the names that it registers them under.

When a library with kernels is loaded, code that nvcc made calls `__cudaRegisterFunction(handle, stub, name, name, …)`
for each of them: `lea name(%rip),%rdx … lea stub(%rip),%rsi … call`. Those calls are found and read in the file; it
needs no symbols, only that the function comes from a shared runtime, or has a symbol. Stubs whose address comes from a
table (visible functions) have symbols of their own. Only x86-64.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from flowprof.profiler.binaries.branches import direct_calls
from flowprof.profiler.binaries.disassembly import lea_target, sweep
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.planning.sites import call_targets

REGISTER = "__cudaRegisterFunction"
MAX_KERNELS = 50_000  # calls that are looked at: two seconds' work
MAX_NAME = 4096
_PIECE = 16 << 20
_CALL = 5  # bytes of a direct call
_SETUP = 256  # bytes, at most, in which the arguments of one call are made


def registered_kernels(elf: ElfFile) -> dict[int, str]:
    """Address of each kernel's stub → its (mangled) name. Empty where nothing is registered, or it cannot be read."""
    if elf.machine != "x86-64":
        return {}
    found: dict[int, str] = {}
    try:
        before = 0
        for call in islice(_calls(elf, call_targets(elf, REGISTER)), MAX_KERNELS):
            start = before + _CALL if call - before <= _SETUP else _function_start(elf, call)
            before = call
            if start is None:
                continue
            values = _loaded(elf, start, call)
            name = _text(elf, values["rdx"]) if {"rdx", "rsi"} <= set(values) else ""
            if name:
                found[values["rsi"]] = name
    except FlowprofError:
        return found  # a file that is cut short
    return found


def _calls(elf: ElfFile, targets: set[int]) -> Iterator[int]:
    """Addresses of what looks like a direct call to one of the targets, in order."""
    wanted = np.array(sorted(targets), np.int64)
    for segment in elf.segments if targets else ():
        if not segment.executable:
            continue
        for at in range(0, segment.file_size, _PIECE):
            code = elf.read(segment.address + at, min(_PIECE + _CALL - 1, segment.file_size - at))
            if len(code) > _CALL:
                places, goals = direct_calls(elf.machine, code, segment.address + at)
                yield from places[np.isin(goals, wanted)].tolist()


def _function_start(elf: ElfFile, call: int) -> int | None:
    bounds = elf.function_bounds(call)
    return bounds[0] if bounds is not None and 0 <= call - bounds[0] <= _SETUP else None


def _loaded(elf: ElfFile, start: int, end: int) -> dict[str, int]:
    """The registers that the straight line from `start` to `end` loads with addresses of this file."""
    values: dict[str, int] = {}
    for at, size, verb, operands in sweep(elf.machine, elf.read(start, end - start), start):
        register = operands.partition(",")[0].strip()
        target = lea_target(at + size, verb, operands)
        if target is not None:
            values[register] = target
        elif verb == "mov" or verb.startswith(("xor", "pop")):
            values.pop(register, None)
    return values


def _text(elf: ElfFile, address: int) -> str:
    """The text that ends with a NUL at this address; "" for what is none."""
    for size in (MAX_NAME, 256):
        try:
            data = elf.read(address, size)
        except FlowprofError:
            continue
        text, nul, _ = data.partition(b"\0")
        return text.decode() if nul and text.isascii() and text.decode().isprintable() else ""
    return ""
