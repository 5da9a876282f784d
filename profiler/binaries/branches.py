"""Where the branches of a piece of code land, and which direct calls it holds: found in the bytes with numpy.

AArch64 instructions are words, so this is exact. On x86-64 every byte that could begin a direct branch is taken for
one: the result is a superset of the true landings, so "none lands here" is proven without disassembling the function,
however large, and only when something seems to land is the function disassembled to tell (`landings`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flowprof.profiler.binaries.disassembly import direct_target, is_jump, sweep

Positions = np.ndarray[Any, np.dtype[np.int64]]

MAX_SWEEP = 1 << 20


def landings(machine: str, code: bytes, address: int, low: int, high: int) -> list[int]:
    """Addresses in [low, high] that a direct jump in the code lands on (for huge x86-64 functions: may land on)."""
    possible = _x86_jumps(code, address) if machine == "x86-64" else _aarch64_jumps(code, address)
    found = sorted(set(possible[(possible >= low) & (possible <= high)].tolist()))
    if not found or machine != "x86-64" or len(code) > MAX_SWEEP:
        return found
    jumps = {direct_target(text) for _, _, verb, text in sweep(machine, code, address) if is_jump(machine, verb)}
    return [a for a in found if a in jumps]


def far_jumps(machine: str, code: bytes, address: int) -> list[int]:
    """Where jumps out of this code may go to: a function's cold part, a tail call, or (x86-64) nowhere real."""
    possible = _x86_near(code, address) if machine == "x86-64" else _aarch64_jumps(code, address)
    return sorted(set(possible[(possible < address) | (possible >= address + len(code))].tolist()))


def may_jump_indirectly(machine: str, code: bytes, address: int) -> bool:
    """Whether the code holds an indirect jump: a jump table, or a tail call through a pointer."""
    if machine == "aarch64":
        words = np.frombuffer(code[: len(code) & ~3], "<u4")
        return bool((words & 0xFEFFF000 == 0xD61F0000).any())
    b = np.frombuffer(code, np.uint8)
    if not ((b[:-1] == 0xFF) & (b[1:] >> 3 & 7 == 4)).any():
        return False
    if len(code) > MAX_SWEEP:
        return True
    verbs = ((verb.rsplit(" ", 1)[-1], text) for _, _, verb, text in sweep(machine, code, address))
    return any(verb == "jmp" and direct_target(text) is None for verb, text in verbs)


def direct_calls(machine: str, code: bytes, address: int) -> tuple[Positions, Positions]:
    """(addresses, targets) of direct calls; on x86-64 of all bytes that look like one."""
    if machine == "aarch64":
        words = np.frombuffer(code[: len(code) & ~3], "<u4")
        at = np.flatnonzero(words & 0xFC000000 == 0x94000000)
        return address + 4 * at, address + 4 * at + _signed(words[at] & 0x3FFFFFF, 26) * 4
    b = np.frombuffer(code, np.uint8)
    at = np.flatnonzero(b[:-4] == 0xE8)
    return address + at, address + at + 5 + _int32(b, at + 1)


def _x86_jumps(code: bytes, address: int) -> Positions:
    b = np.frombuffer(code, np.uint8)
    head = b[:-1]
    short = np.flatnonzero((head & 0xF0 == 0x70) | (head == 0xEB) | (head & 0xFC == 0xE0))
    return np.concatenate([address + short + 2 + b[short + 1].view(np.int8), _x86_near(code, address)])


def _x86_near(code: bytes, address: int) -> Positions:
    b = np.frombuffer(code, np.uint8)
    jump = np.flatnonzero(b[:-4] == 0xE9)
    conditional = np.flatnonzero((b[:-5] == 0x0F) & (b[1:-4] & 0xF0 == 0x80))
    return np.concatenate(
        [address + jump + 5 + _int32(b, jump + 1), address + conditional + 6 + _int32(b, conditional + 2)]
    )


def _aarch64_jumps(code: bytes, address: int) -> Positions:
    words = np.frombuffer(code[: len(code) & ~3], "<u4")
    here = address + 4 * np.arange(len(words), dtype=np.int64)
    found = []
    for mask, value, shift, width in (
        (0xFC000000, 0x14000000, 0, 26),  # b
        (0xFF000000, 0x54000000, 5, 19),  # b.cond
        (0x7E000000, 0x34000000, 5, 19),  # cbz, cbnz
        (0x7E000000, 0x36000000, 5, 14),  # tbz, tbnz
    ):
        at = np.flatnonzero(words & mask == value)
        found.append(here[at] + 4 * _signed(words[at] >> shift & (1 << width) - 1, width))
    return np.concatenate(found)


def _int32(b: np.ndarray[Any, np.dtype[np.uint8]], at: Positions) -> Positions:
    return np.ascontiguousarray(b[at[:, None] + np.arange(4)]).view("<i4")[:, 0].astype(np.int64)


def _signed(values: np.ndarray[Any, np.dtype[Any]], width: int) -> Positions:
    wide = values.astype(np.int64)
    return wide - ((wide >> width - 1) << width)
