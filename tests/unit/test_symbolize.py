"""Functions and source lines against what addr2line says, and line tables that lie."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.binaries.elf_image import ElfError
from flowprof.profiler.binaries.line_table import LineTable
from flowprof.profiler.binaries.symbolize import Place, symbolize
from flowprof.profiler.target import Mapping, Module

pytestmark = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("addr2line")), reason="needs gcc and binutils"
)

SOURCES = Path(__file__).with_name("stacks")


def module(path: Path) -> Module:
    return Module(os.getpid(), str(path), str(path), path.stat().st_ino, "0:0", False, (Mapping(0, 1, 0),))


def addr2line(path: Path, addresses: Sequence[int]) -> dict[int, str | None]:
    """Address → file:line as binutils say it; None where they cannot."""
    command = ["addr2line", "-e", path, *map(hex, addresses)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = [re.sub(r" \(discriminator \d+\)", "", line) for line in told]
    return {a: None if "?" in line else line for a, line in zip(addresses, lines, strict=True)}


def same(stated: str | None, told: str | None) -> bool:
    """Whether both name the same line; relative files end like the absolute ones."""
    if stated is None or told is None:
        return stated is told
    return os.path.normpath(told).endswith(os.path.normpath(stated).lstrip("./"))


@pytest.mark.parametrize(
    "flags", ["-gdwarf-4", "-gdwarf-5", "-gdwarf-3", "-gdwarf-5 -gz", "-gdwarf-5 -ffunction-sections"]
)
def test_every_address_of_a_program(tmp_path: Path, flags: str) -> None:
    program = tmp_path / "chain"
    command = ["gcc", "-O2", *flags.split(), "-Wl,-z,norelro", "-o", program, SOURCES / "chain.c", "-lpthread"]
    subprocess.run(command, check=True)
    own = [f for f in (ElfFile(str(program)).symbols().get(n) for n in ("a", "b", "c", "thread", "main", "tell")) if f]
    addresses = [address for f in own for address in range(f.address, f.address + f.size)]
    places = symbolize(module(program), addresses)
    told = addr2line(program, addresses)
    assert len(own) == 6 and all(told.values())
    assert {a: p.source for a, p in places.items() if not same(p.source, told[a])} == {}
    assert {p.function for p in places.values()} == {"a", "b", "c", "thread", "main", "tell"}


def test_a_library_of_100_mb() -> None:
    """Against addr2line, at random places of random functions."""
    import xllamacpp

    path = next(Path(xllamacpp.__file__).parent.glob("*.so"))
    dice = random.Random(11)
    functions = [f for f in ElfFile(str(path)).functions() if f[1] > 8]
    addresses = sorted({start + dice.randrange(size) for start, size in dice.sample(functions, 300)})
    places, told = symbolize(module(path), addresses), addr2line(path, addresses)
    assert {a: (p.source, told[a]) for a, p in places.items() if not same(p.source, told[a])} == {}
    assert sum(p.source is not None for p in places.values()) > 50
    assert sum(p.function is not None for p in places.values()) > 290


def test_names_are_demangled_and_debug_files_used(tmp_path: Path) -> None:
    program, debug = tmp_path / "exception", tmp_path / "exception.debug"
    subprocess.run(["gcc", "-O2", "-Dmain=unused", "-c", "-o", tmp_path / "c.o", SOURCES / "chain.c"], check=True)
    command = ["g++", "-O2", "-g", "-o", program, SOURCES / "exception.cc", tmp_path / "c.o", "-lpthread"]
    subprocess.run(command, check=True)
    address = ElfFile(str(program)).symbols().match("_ZN7planted7guardedEi$")[0].address
    whole = symbolize(module(program), [address])
    assert whole[address].function == "planted::guarded(int)"
    assert re.search(r"exception\.cc:\d+$", whole[address].source or "")
    for step in (
        ["objcopy", "--only-keep-debug", program, debug],
        ["strip", "-s", program],
        ["objcopy", f"--add-gnu-debuglink={debug}", program],
    ):
        subprocess.run(step, check=True)
    assert symbolize(module(program), [address]) == whole
    debug.unlink()
    bare = module(program)
    assert symbolize(Module(bare.pid, "other", bare.open_path, 1, "0", False, ()), [address]) == {
        address: Place(None, None)
    }


def test_what_cannot_be_known(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no ELF")
    gone = module(tmp_path / "text")
    assert symbolize(gone, [1, 1 << 70, -1]) == {a: Place(None, None) for a in (1, 1 << 70, -1)}
    assert symbolize(gone, []) == {}


def test_tables_that_lie(tmp_path: Path) -> None:
    program = tmp_path / "chain"
    subprocess.run(["gcc", "-O2", "-g", "-o", program, SOURCES / "chain.c", "-lpthread"], check=True)
    elf = ElfFile(str(program))
    good = program.read_bytes()
    table = elf.section(".debug_line")
    start = elf.symbols().get("a")
    assert table and start
    dice = random.Random(3)
    for number in range(300):
        bad = bytearray(good)
        for _ in range(dice.randrange(1, 30)):
            bad[table.offset + dice.randrange(table.size)] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        path = tmp_path / f"bad{number}"
        path.write_bytes(bad if number % 4 else bad[: dice.randrange(len(bad))])
        try:
            found = LineTable(ElfFile(str(path))).lines(range(start.address, start.address + 40))
        except ElfError:
            continue
        assert all(isinstance(line, str) and len(line) < 2000 for line in found.values())


def test_work_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "chain"
    subprocess.run(["gcc", "-O2", "-g", "-o", program, SOURCES / "chain.c", "-lpthread"], check=True)
    monkeypatch.setattr("flowprof.profiler.binaries.line_table.MAX_STEPS", 3)
    elf = ElfFile(str(program))
    symbol = elf.symbols().get("b")
    assert symbol and LineTable(elf).lines([symbol.address]) == {}
