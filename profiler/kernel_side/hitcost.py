"""What one probe hit costs on this host, measured: on an instruction that the kernel emulates, and on one it steps.

Two tiny functions and their loops lie as machine code in an anonymous file that is mapped executable; a probe goes
on the first instruction of each. No compiler is needed, and nothing of Python is inside the measured loop. The result
is the median of several rounds less the same loop without a probe. All of it takes some 0.05 s.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from flowprof.profiler.errors import BpfError

CHEAP, STEPPED = 0, 16  # file offsets of the two functions' first instructions
_LOOPS = {CHEAP: 32, STEPPED: 96}
_ROUNDS = 5
_CALLS = {CHEAP: 1500, STEPPED: 300}  # per round: a single-stepped hit costs up to 10 µs in a guest


@dataclass(frozen=True, slots=True)
class HitCost:
    """Nanoseconds per hit beside the code that is probed, and of how many hits each is the median."""

    cheap_ns: float
    stepped_ns: float
    hits: int


class Closeable(Protocol):
    def close(self) -> None: ...


Attach = Callable[[str, Sequence[int]], Closeable]


def measure(attach: Attach) -> HitCost:
    """Measure with the probe that `attach(path, file_offsets)` puts on a file of *this* process until it is closed.

    Raises BpfError on a machine that is neither x86-64 nor AArch64 or forbids executable mappings, and whatever
    `attach` raises.
    """
    with _machine_code() as (path, address):
        loops = {entry: ctypes.CFUNCTYPE(None, ctypes.c_int)(address + at) for entry, at in _LOOPS.items()}
        bare = {entry: _per_call_ns(loop, _CALLS[CHEAP]) for entry, loop in loops.items()}
        probe = attach(path, (CHEAP, STEPPED))
        try:
            probed = {entry: _per_call_ns(loop, _CALLS[entry]) for entry, loop in loops.items()}
        finally:
            probe.close()
    cost = {entry: max(0.0, probed[entry] - bare[entry]) for entry in loops}
    return HitCost(cost[CHEAP], cost[STEPPED], _ROUNDS * _CALLS[STEPPED])


@contextmanager
def probed_function(attach: Attach) -> Iterator[Callable[[int], object]]:
    """A function `call(n)` that hits, n times, the probe that `attach` puts on it: for tests of the probe itself."""
    with _machine_code() as (path, address):
        probe = attach(path, (CHEAP,))
        try:
            yield ctypes.CFUNCTYPE(None, ctypes.c_int)(address + _LOOPS[CHEAP])
        finally:
            probe.close()


def machine_code(machine: str) -> bytes:
    """The file's bytes for `x86_64` or `aarch64`. Raises BpfError for any other machine."""
    if machine == "x86_64":
        functions = {
            CHEAP: b"\x55\x5d\xc3",
            STEPPED: b"\x48\x89\xf8\xc3",
        }  # push %rbp; pop; ret | mov %rdi,%rax; ret
        loop = _x86_loop
    elif machine == "aarch64":
        # adr x9, . (simulated by every kernel); ret | mov x9, x0; ret
        functions = {
            CHEAP: struct.pack("<2I", 0x10000009, 0xD65F03C0),
            STEPPED: struct.pack("<2I", 0xAA0003E9, 0xD65F03C0),
        }
        loop = _arm_loop
    else:
        raise BpfError(f"flowprof cannot place probes on {machine}", "it knows x86-64 and AArch64")
    code = bytearray(mmap.PAGESIZE)
    for entry, body in functions.items():
        code[entry : entry + len(body)] = body
        around = loop(entry - _LOOPS[entry])
        code[_LOOPS[entry] : _LOOPS[entry] + len(around)] = around
    return bytes(code)


def _x86_loop(function: int) -> bytes:
    """push %rbx; mov %edi,%ebx; 1: call function; dec %ebx; jnz 1b; pop %rbx; ret — `function` is relative to here."""
    return b"\x53\x89\xfb\xe8" + struct.pack("<i", function - 8) + b"\xff\xcb\x75\xf7\x5b\xc3"


def _arm_loop(function: int) -> bytes:
    """stp x29,x30,[sp,#-32]!; str x19,[sp,#16]; mov w19,w0; 1: bl function; subs w19,w19,#1; b.ne 1b; restore; ret"""
    branch = 0x94000000 | (((function - 12) >> 2) & 0x3FFFFFF)
    return struct.pack(
        "<9I",
        0xA9BE7BFD,
        0xF9000BF3,
        0x2A0003F3,
        branch,
        0x71000673,
        0x54FFFFC1,
        0xF9400BF3,
        0xA8C27BFD,
        0xD65F03C0,
    )


@contextmanager
def _machine_code() -> Iterator[tuple[str, int]]:
    """The code in an anonymous file: its path for the kernel, and where it is mapped in this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    fd = os.memfd_create("flowprof-hitcost")
    try:
        os.write(fd, machine_code(platform.machine()))
        address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, fd, 0)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise BpfError(f"no executable mapping is allowed here: {os.strerror(ctypes.get_errno())}")
        try:
            yield f"/proc/{os.getpid()}/fd/{fd}", address
        finally:
            libc.munmap(address, mmap.PAGESIZE)
    finally:
        os.close(fd)


def _per_call_ns(loop: Callable[[int], object], calls: int) -> float:
    rounds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter_ns()
        loop(calls)
        rounds.append((time.perf_counter_ns() - began) / calls)
    return median(rounds)
