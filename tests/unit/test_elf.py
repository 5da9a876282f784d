"""ELF files of every shape that gcc makes, their debug files, and files that lie."""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from flowprof.profiler.binaries.elf import ElfError, ElfFile
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.planning.callgraph import compute_forward_candidates, find_graph_thread, references
from flowprof.profiler.planning.sites import choose_entry_site

SOURCE = """
#include <stdio.h>
int table[4] = {1, 2, 3, 4};
static __attribute__((noinline)) int hidden(int x) { printf("%d\\n", x); return x * 3; }
__attribute__((noinline)) int visible(int x) { puts("visible"); return hidden(x) + table[x & 3]; }
#ifndef LIBRARY
int main(int argc, char **argv) { return visible(argc); }
#endif
"""
SHAPES = {
    "pie": ["-pie", "-fPIE"],
    "no-pie": ["-no-pie"],
    "static": ["-static"],
    "static-pie": ["-static-pie", "-fPIE"],
    "library": ["-shared", "-fPIC", "-DLIBRARY"],
    "bind-now": ["-pie", "-fPIE", "-Wl,-z,now"],
    "cet": ["-pie", "-fPIE", "-fcf-protection=full"],
}

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc to make ELF files")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("elf")
    (folder / "a.c").write_text(SOURCE)
    for name, flags in SHAPES.items():
        command = ["gcc", "-O2", "-Wl,--build-id", *flags, "-o", str(folder / name), str(folder / "a.c")]
        subprocess.run(command, check=True, capture_output=True)
    return {name: folder / name for name in SHAPES}


def nm(path: Path) -> dict[str, int]:
    lines = subprocess.run(["nm", str(path)], check=True, capture_output=True, text=True).stdout.splitlines()
    fields = [line.split() for line in lines if len(line.split()) == 3]
    return {name: int(address, 16) for address, kind, name in fields if kind in "tTdDrR"}


@pytest.mark.parametrize(
    ("shape", "is_pie", "static"),
    [
        ("pie", True, False),
        ("no-pie", False, False),
        ("static", False, True),
        ("static-pie", True, True),
        ("library", False, False),
        ("bind-now", True, False),
        ("cet", True, False),
    ],
)
def test_shape_and_symbols(made: dict[str, Path], shape: str, is_pie: bool, static: bool) -> None:
    elf = ElfFile(str(made[shape]))
    truth = nm(made[shape])
    assert (elf.machine, elf.bits, elf.is_pie, elf.static, elf.stripped) == ("x86-64", 64, is_pie, static, False)
    assert elf.build_id is not None and len(elf.build_id) == 40
    for name, kind in (("hidden", "function"), ("visible", "function"), ("table", "object")):
        symbol = elf.symbols().get(name)
        assert symbol is not None and (symbol.address, symbol.kind, symbol.source) == (truth[name], kind, "symtab")
    hidden = elf.symbols().get("hidden")
    assert hidden is not None and elf.symbols().at(hidden.address + 1) == hidden
    assert [s.name for s in elf.symbols().match("(hidden|visible)$")] == sorted(["hidden", "visible"], key=truth.get)
    assert elf.symbols().get("no such") is None and elf.symbols().get("") is None


@pytest.mark.parametrize("shape", SHAPES)
def test_offsets_lead_to_the_bytes(made: dict[str, Path], shape: str) -> None:
    elf = ElfFile(str(made[shape]))
    address = nm(made[shape])["visible"]
    offset = elf.file_offset(address)
    assert elf.read(address, 16) == made[shape].read_bytes()[offset : offset + 16]
    assert elf.executable(address) and not elf.executable(nm(made[shape])["table"])
    with pytest.raises(ElfError, match="nothing at address"):
        elf.read(1 << 60, 4)
    with pytest.raises(ElfError, match="beyond"):
        elf.read(address, 1 << 30)


@pytest.mark.parametrize("shape", SHAPES)
def test_stripped_files_keep_their_functions(made: dict[str, Path], shape: str, tmp_path: Path) -> None:
    subprocess.run(["strip", "-o", str(tmp_path / "s"), str(made[shape])], check=True)
    whole, stripped = ElfFile(str(made[shape])), ElfFile(str(tmp_path / "s"))
    assert stripped.stripped and stripped.symbols().get("hidden") is None
    assert (stripped.symbols().get("visible") is not None) == (shape == "library")
    for name in ("hidden", "visible"):
        symbol = whole.symbols().get(name)
        assert symbol is not None
        bounds = (symbol.address, symbol.address + symbol.size)
        assert stripped.function_bounds(symbol.address) == stripped.function_bounds(symbol.address + 3) == bounds
        assert (symbol.address, symbol.size) in stripped.functions()


@pytest.mark.parametrize("shape", ["pie", "no-pie", "library", "bind-now", "cet"])
def test_plt_stubs_as_objdump_names_them(made: dict[str, Path], shape: str) -> None:
    text = subprocess.run(["objdump", "-d", str(made[shape])], check=True, capture_output=True, text=True).stdout
    called = {(int(a, 16), n) for a, n in re.findall(r"call +([0-9a-f]+) <(\w+)@plt>", text)}
    elf = ElfFile(str(made[shape]))
    assert any(name == "puts" for _, name in called)
    for address, name in called:
        assert elf.plt_target(address) == name and address in elf.plt_stubs(name)
    visible = elf.symbols().get("visible")
    assert visible is not None
    assert "puts" in [elf.plt_target(r.target) for r in references(elf, visible.address) if r.kind == "call"]


# -- separate debug files ---------------------------------------------------------------------------------------------


@pytest.fixture
def split(made: dict[str, Path], tmp_path: Path) -> tuple[Path, Path]:
    program, debug = tmp_path / "app" / "program", tmp_path / "made.debug"
    program.parent.mkdir()
    subprocess.run(["objcopy", "--only-keep-debug", str(made["pie"]), str(debug)], check=True)
    link = f"--add-gnu-debuglink={debug}"
    subprocess.run(["objcopy", "--strip-all", link, str(made["pie"]), str(program)], check=True)
    return program, debug


@pytest.mark.parametrize("place", ["app/made.debug", "app/.debug/made.debug", "dir/made.debug", "dir/.build-id"])
def test_debug_file_is_found(split: tuple[Path, Path], made: dict[str, Path], tmp_path: Path, place: str) -> None:
    program, debug = split
    build_id = ElfFile(str(program)).build_id
    assert build_id is not None
    target = tmp_path / (f"dir/.build-id/{build_id[:2]}/{build_id[2:]}.debug" if place.endswith("-id") else place)
    target.parent.mkdir(parents=True, exist_ok=True)
    debug.rename(target)
    symbol = ElfFile(str(program), debug_dirs=(str(tmp_path / "dir"),)).symbols().get("hidden")
    assert symbol is not None and (symbol.address, symbol.source) == (nm(made["pie"])["hidden"], "debug")


def test_debug_file_below_the_targets_root(split: tuple[Path, Path], tmp_path: Path) -> None:
    program, debug = split
    target = tmp_path / "root/usr/lib/debug/opt/made.debug"
    target.parent.mkdir(parents=True)
    debug.rename(target)
    (tmp_path / "root/opt").mkdir()
    program.rename(tmp_path / "root/opt/program")
    elf = ElfFile(str(tmp_path / "root/opt/program"), root=str(tmp_path / "root"))
    assert elf.symbols().get("hidden") is not None


def test_debug_file_of_another_build_is_refused(split: tuple[Path, Path], made: dict[str, Path]) -> None:
    program, _ = split
    shutil.copy(made["no-pie"], program.parent / "made.debug")
    assert ElfFile(str(program)).symbols().get("hidden") is None


def test_debug_link_without_build_id_needs_its_crc(made: dict[str, Path], tmp_path: Path) -> None:
    program, debug = tmp_path / "program", tmp_path / "made.debug"
    plain = ["objcopy", "--remove-section=.note.gnu.build-id"]
    subprocess.run([*plain, "--only-keep-debug", str(made["pie"]), str(debug)], check=True)
    subprocess.run([*plain, "--strip-all", f"--add-gnu-debuglink={debug}", str(made["pie"]), str(program)], check=True)
    assert ElfFile(str(program)).build_id is None
    assert ElfFile(str(program)).symbols().get("hidden") is not None
    good = debug.read_bytes()
    debug.write_bytes(good + b"x")
    assert zlib.crc32(good) != zlib.crc32(good + b"x")
    assert ElfFile(str(program)).symbols().get("hidden") is None


# -- files that are no ELF files, or lie ------------------------------------------------------------------------------


def header32(machine: int, kind: int = 2, order: str = "<") -> bytes:
    ident = b"\x7fELF\x01" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
    fields = struct.pack(order + "HHIIIIIHHHHHH", kind, machine, 1, 0x8048000, 52, 0, 0, 52, 32, 2, 40, 0, 0)
    loaded = struct.pack(order + "IIIIIIII", 1, 0, 0x8048000, 0x8048000, 256, 256, 5, 4096)
    interpreter = struct.pack(order + "IIIIIIII", 3, 0, 0x8048000, 0x8048000, 16, 16, 4, 1)
    return (ident + fields + loaded + interpreter).ljust(256, b"\x90")


@pytest.mark.parametrize(
    ("machine", "order", "name"),
    [(3, "<", "x86"), (40, "<", "arm"), (8, ">", "big-endian 8"), (777, "<", "machine 777")],
)
def test_32_bit_and_foreign_files_are_recognised(tmp_path: Path, machine: int, order: str, name: str) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(header32(machine, order=order))
    elf = ElfFile(str(path))
    assert (elf.bits, elf.machine, elf.static, elf.is_pie) == (32, name, False, False)
    assert len(elf.symbols()) == 0 and elf.functions() == [] and elf.plt_target(0x8048000) is None
    assert elf.file_offset(0x8048010) == 16
    with pytest.raises(FlowprofError, match="32-bit"):
        choose_entry_site(elf, 0x8048000, 1)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n" * 20, b"\x7fELF\x07\x01" + bytes(100), bytes(64)])
def test_no_elf_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ElfError):
        ElfFile(str(tmp_path / "f"))


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe", "/dev/null", "a\0b"):
        with pytest.raises(ElfError):
            ElfFile(str(path))


def use_everything(path: Path) -> None:
    elf = ElfFile(str(path))
    names = [s.name for s in elf.symbols().match(".*")][:20]
    _ = elf.build_id, elf.is_pie, elf.static, elf.stripped, elf.segments, elf.sections, elf.debug_file
    elf.functions()
    for name in ["visible", "ggml_graph_compute", *names]:
        symbol = elf.symbols().get(name)
        elf.plt_stubs(name)
        if symbol is not None:
            elf.function_bounds(symbol.address)
            references(elf, symbol.address)
            choose_entry_site(elf, symbol.address, 3)
    find_graph_thread(elf)
    compute_forward_candidates(elf)


@pytest.mark.parametrize("shape", ["pie", "library"])
def test_truncated_anywhere(made: dict[str, Path], tmp_path: Path, shape: str) -> None:
    data = made[shape].read_bytes()
    path = tmp_path / "cut"
    lengths = [*range(0, 1200, 37), *range(1200, len(data), 211)]
    for length in lengths:
        path.write_bytes(data[:length])
        try:
            use_everything(path)
        except FlowprofError as e:
            assert len(e.message) > 20
        else:
            pytest.fail(f"the first {length} of {len(data)} bytes passed for the whole file")


def test_shrinking_file(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "shrinks"
    shutil.copy(made["pie"], path)
    elf = ElfFile(str(path))
    os.truncate(path, 2000)
    with pytest.raises(ElfError, match="shrank"):
        elf.symbols()


@pytest.mark.parametrize("seed", range(8))
def test_fuzzed_headers_never_raise_anything_else(made: dict[str, Path], tmp_path: Path, seed: int) -> None:
    """Random damage where the structure is: all headers, the dynamic section, symbols, the unwind table."""
    rng = random.Random(seed)
    shape = ("pie", "library")[seed % 2]
    original = made[shape].read_bytes()
    elf = ElfFile(str(made[shape]))
    places = [(16, 48), (64, 56 * 12), (len(original) - 64 * len(elf.sections), 64 * len(elf.sections))]
    wanted = (".dynamic", ".symtab", ".dynsym", ".eh_frame_hdr", ".eh_frame", ".rela.plt", ".plt", ".note.gnu.build-id")
    places += [(s.offset, s.size) for s in elf.sections if s.name in wanted and s.size]
    path = tmp_path / "fuzzed"
    for _ in range(60):
        data = bytearray(original)
        for _ in range(rng.choice((1, 1, 2, 8))):
            start, size = rng.choice(places)
            at = start + rng.randrange(size)
            value = rng.choice((b"\xff" * 8, bytes(8), b"\xff\xff\xff\x7f", rng.randbytes(1), rng.randbytes(8)))
            data[at : at + len(value)] = value[: max(0, len(data) - at)]
        path.write_bytes(data)
        with suppress(FlowprofError):
            use_everything(path)


def test_overlapping_huge_names_are_refused(tmp_path: Path, build_elf: Callable[..., dict[str, int]]) -> None:
    """Every symbol's name the same 16 KiB: harmless on disk, gigabytes in memory if nobody counts."""
    path = tmp_path / "names"
    build_elf(path, {f"f{i}": b"\xc3" for i in range(100)})
    data = bytearray(path.read_bytes())
    headers_at = struct.unpack_from("<Q", data, 40)[0]
    count = 60_000
    symbols = b"".join(struct.pack("<IBBHQQ", i % 7, 0x12, 0, 1, 0x11000, 1) for i in range(count))
    symbols_at = len(data)
    data += symbols
    strings_at = len(data)
    data += b"n" * (1 << 20) + b"\0"
    struct.pack_into("<QQ", data, headers_at + 2 * 64 + 24, symbols_at, len(symbols))
    struct.pack_into("<QQ", data, headers_at + 3 * 64 + 24, strings_at, (1 << 20) + 1)
    path.write_bytes(data)
    with pytest.raises(ElfError, match="names"):
        ElfFile(str(path)).symbols()
