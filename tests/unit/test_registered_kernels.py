"""Calls that register kernels, assembled by hand: what is read, and what is no such call."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.cuda.registered_kernels import REGISTER, registered_kernels

BuildElf = Callable[..., dict[str, int]]
NAME = b"_Z4normPf\0\x01bad\0" + b"_Z4gemmPf\0"
DATA_AT = 0x10400  # where build_elf puts the data
STUB = 0x11800


def code_at(start: int, calls: list[tuple[int | None, int | None]], register: int) -> bytes:
    """`lea rdx, name; lea rsi, stub; mov rcx, rdx; call register` for each; None: not loaded by an address."""
    code = b""
    for name, stub in calls:
        for prefix, target in ((b"\x48\x8d\x15", name), (b"\x48\x8d\x35", stub)):
            at = start + len(code) + 7
            code += (
                prefix + struct.pack("<i", target - at) if target is not None else b"\x48\x8b" + prefix[2:] + bytes(4)
            )
        code += b"\x48\x89\xd1"
        code += b"\xe8" + struct.pack("<i", register - (start + len(code) + 5))
    return code + b"\xc3"


def made(path: Path, build_elf: BuildElf, calls: list[tuple[int | None, int | None]]) -> ElfFile:
    first = build_elf(path, {REGISTER: b"\xc3", "callback": b"\x90" * 400}, data=NAME)
    code = code_at(first["callback"], calls, first[REGISTER]).ljust(400, b"\x90")
    build_elf(path, {REGISTER: b"\xc3", "callback": code}, data=NAME)
    return ElfFile(str(path))


def test_names_by_stub(tmp_path: Path, build_elf: BuildElf) -> None:
    calls = [
        (DATA_AT, STUB), (DATA_AT + 15, STUB + 16),
        (DATA_AT + 10, STUB + 32),  # no text
        (DATA_AT, None), (None, STUB + 64),  # loaded from a table: the registers of the call before are worth nothing
        (0x7FFF0000, STUB + 80),  # outside of the file
        (DATA_AT, STUB + 96),
    ]  # fmt: skip
    found = registered_kernels(made(tmp_path / "a.so", build_elf, calls))
    assert found == {STUB: "_Z4normPf", STUB + 16: "_Z4gemmPf", STUB + 96: "_Z4normPf"}


def test_nothing_is_registered(tmp_path: Path, build_elf: BuildElf) -> None:
    build_elf(tmp_path / "a.so", {"f": b"\xe8\0\0\0\0\xc3"})
    assert registered_kernels(ElfFile(str(tmp_path / "a.so"))) == {}
    build_elf(tmp_path / "b.so", {REGISTER: bytes(8)}, 183)
    assert registered_kernels(ElfFile(str(tmp_path / "b.so"))) == {}
