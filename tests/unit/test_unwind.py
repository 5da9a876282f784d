"""Stacks of programs that know who called whom, and stacks that lie."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from flowprof.profiler.binaries.cfi import FOLLOWED, CallFrames
from flowprof.profiler.binaries.cfi_expression import Unknown, evaluate
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.binaries.module_code import ModuleCode, code_of
from flowprof.profiler.binaries.unwind import MAX_FRAMES, Frame, Registers, unwind
from flowprof.profiler.target import Mapping, Module, modules_of

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc to make programs")

SOURCES = Path(__file__).with_name("stacks")
WITHOUT = ("-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
BUILDS = {
    "tables": ("-DCFI", "-fomit-frame-pointer"),
    "tables, lazy": ("-DCFI", "-Wl,-z,lazy", "-Wl,-z,norelro", "-fcf-protection=none"),
    "pointers": ("-fno-omit-frame-pointer", *WITHOUT),
    "nothing": ("-fomit-frame-pointer", *WITHOUT),
    "static": ("-DCFI", "-static"),
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a program tells at its innermost function, and what it says about who called whom."""

    registers: Registers
    returns: list[int]  # by depth: where capture's caller and its callers return to
    stack: bytes
    modules: tuple[Module, ...]

    def unwind(self) -> list[Frame]:
        return unwind(self.registers, self.stack, self.modules)

    def stated(self) -> list[int]:
        """`returns` as addresses of the file's last byte of each call."""
        found = []
        for pc in filter(None, self.returns):
            [(module, mapping)] = [
                (module, m) for module in self.modules for m in module.mappings if m.start <= pc - 1 < m.end
            ]
            found.append(ElfFile(module.open_path).address_of(pc - 1 - mapping.start + mapping.offset))
        return found


def snapshot(program: Path, *arguments: str) -> Snapshot:
    with subprocess.Popen(
        [program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"LANG": "C"}
    ) as process:
        assert process.stdout is not None
        registers, returns, stack = (process.stdout.readline().split() for _ in range(3))
        modules = modules_of(process.pid)
        kept = tuple(replace(m, open_path=m.path) for m in modules)  # the process is gone before they are read
        process.communicate("\n")
    return Snapshot(
        Registers(*(int(x, 16) for x in registers)), [int(x, 16) for x in returns], bytes.fromhex(stack[0]), kept
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("stacks")

    def build(kind: str) -> Path:
        program = folder / kind.replace(", ", "-")
        if not program.exists():
            subprocess.run(["gcc", "-O2", *BUILDS[kind], "-o", program, SOURCES / "chain.c"], check=True)
        return program

    return build


@pytest.fixture(scope="module")
def thrower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exception")
    source, program = folder / "chain.o", folder / "exception"
    subprocess.run(["gcc", "-O2", "-DCFI", "-Dmain=unused", "-c", "-o", source, SOURCES / "chain.c"], check=True)
    subprocess.run(["g++", "-O2", "-o", program, SOURCES / "exception.cc", source], check=True)
    return program


def names(frames: list[Frame]) -> list[str]:
    """The program's own functions, by its symbols."""
    found = [code_of(frame.module).symbol(frame.address) for frame in frames if "/lib" not in frame.module.path]
    return [symbol.name if symbol else "?" for symbol in found]


CHAIN = ["capture", "c", "b", "a", "main", "_start"]


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("tables", ["exact"] + 4 * ["unwound"]),
        ("tables, lazy", ["exact"] + 4 * ["unwound"]),
        ("static", ["exact"] + 4 * ["unwound"]),
        ("pointers", ["exact", "scanned"] + 3 * ["frame-pointer"]),
    ],
)
def test_the_calls_are_the_program_s_own(built, kind: str, how: list[str]) -> None:
    taken = snapshot(built(kind), "plain")
    frames = taken.unwind()
    assert [n for n in names(frames) if not n.startswith("__libc_start")] == CHAIN
    assert [frame.how for frame in frames[:5]] == how
    stated = taken.stated()  # c, b and a return into b, a and main
    assert [frame.address for frame in frames[2:5]] == stated[:3]
    assert len({frame.module for frame in frames}) == (1 if kind == "static" else 2)


def test_without_tables_and_frame_pointers_the_stack_is_searched(built) -> None:
    taken = snapshot(built("nothing"), "plain")
    frames = taken.unwind()
    assert names(frames) == CHAIN
    assert [frame.address for frame in frames[2:5]] == taken.stated()[:3]
    assert "unwound" not in {frame.how for frame in frames[1:5]} and frames[1].how == "scanned"


def test_a_stripped_program_tells_the_same(built, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-s", "-o", stripped, built("tables")], check=True)
    whole, bare = (snapshot(path, "plain").unwind() for path in (built("tables"), stripped))
    assert [(f.address, f.how) for f in bare] == [(f.address, f.how) for f in whole]
    assert names(bare)[:5] == 5 * ["?"]


def test_a_thread_ends_where_it_began(built) -> None:
    taken = snapshot(built("tables"), "thread")
    frames = taken.unwind()
    assert names(frames) == ["capture", "c", "b", "a", "thread"]
    assert [frame.address for frame in frames[2:6]] == taken.stated()[:4]
    assert [Path(frame.module.path).name for frame in frames[5:]] == 2 * ["libc.so.6"]


@pytest.mark.parametrize("kind", ["tables", "pointers", "nothing"])
def test_through_a_signal_s_handler(built, kind: str) -> None:
    taken = snapshot(built(kind), "signal")
    frames = taken.unwind()
    assert names(frames)[:2] == ["capture", "handler"]
    if kind == "tables":
        assert names(frames)[2:] == CHAIN[1:]
        assert {frame.how for frame in frames[1:]} == {"unwound"}


@pytest.mark.parametrize(
    ("where", "chain"),
    [
        ("caught", ["capture", "planted::guarded", "main"]),
        ("thrown", ["capture", "Guard::~Guard", "thrower", "planted::guarded", "main"]),
    ],
)
def test_exceptions(thrower: Path, where: str, chain: list[str]) -> None:
    frames = snapshot(thrower, where).unwind()
    demangled = subprocess.run(["c++filt", *names(frames)], capture_output=True, text=True, check=True).stdout
    assert [name.split("(")[0] for name in demangled.splitlines()][:-1] == chain
    assert {frame.how for frame in frames[1:]} == {"unwound"}


@pytest.mark.parametrize("instruction", [0, 6, 11])
def test_in_a_lazy_stub(built, instruction: int) -> None:
    """`jmp *slot; push number; jmp resolver`: the CFA is an expression of where in the 16 bytes it is."""
    taken = snapshot(built("tables, lazy"), "plain")
    [module] = [m for m in taken.modules if "lazy" in m.path]
    elf = ElfFile(module.open_path)
    [stub] = elf.plt_stubs("puts")
    mapping = module.mappings[0]
    pc = stub + instruction - elf.segments[1].address + elf.segments[1].offset - mapping.offset + mapping.start
    pushed = b"\x07" + bytes(7) if instruction == 11 else b""
    at = replace(taken.registers, rip=pc, rsp=taken.registers.rsp - len(pushed))
    frames = unwind(at, pushed + taken.stack, taken.modules)
    assert frames[0] == Frame(module, stub + instruction, "exact")
    assert names(frames)[1:] == CHAIN[1:] and frames[1].how == "unwound"


@pytest.mark.parametrize("where", ["plain", "signal"])
def test_a_copy_that_ends_early_has_its_first_frames(built, where: str) -> None:
    """And no other ones: what lies in a frame that was not copied wholly may look like a return address."""
    taken = snapshot(built("tables"), where)
    whole = taken.unwind()
    for size in range(0, len(taken.stack), 24):
        cut = replace(taken, stack=taken.stack[:size]).unwind()
        assert cut == whole[: len(cut)] and (len(cut) == 1) == (size < 8)
    assert len(replace(taken, stack=taken.stack[:16]).unwind()) == 2


def test_no_stack_is_too_strange(built) -> None:
    dice = random.Random(5)
    for kind in ("tables", "pointers", "nothing"):
        taken = snapshot(built(kind), "signal")
        interesting = [*taken.returns, taken.registers.rsp, taken.registers.rsp + 64, 0, 1 << 63, (1 << 64) - 1]
        for _ in range(60):
            stack = bytearray(taken.stack)
            for _ in range(dice.randrange(400)):
                at = dice.randrange(len(stack) // 8) * 8
                stack[at : at + 8] = dice.choice([*interesting, dice.randrange(1 << 64)]).to_bytes(8, "little")
            registers = taken.registers
            for name in ("rip", "rsp", "rbp", "r12"):
                if dice.random() < 0.3:
                    registers = replace(registers, **{name: dice.choice([*interesting, dice.randrange(1 << 64)])})
            frames = unwind(registers, bytes(stack[: dice.randrange(len(stack))]), taken.modules)
            assert len(frames) <= MAX_FRAMES


def test_work_is_bounded(built, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack full of different places of code, none of which follows a call."""
    taken = snapshot(built("nothing"), "plain")
    read = []
    monkeypatch.setattr(ModuleCode, "call_ending_at", lambda _, last: (bool(read.append(last)), None))
    [module] = [m for m in taken.modules if m.path.endswith("libc.so.6")]
    start = module.mappings[0].start
    stack = b"".join((start + 64 * i).to_bytes(8, "little") for i in range(8000))
    assert len(unwind(taken.registers, stack, taken.modules)) == 1
    assert 100 < len(read) <= 256


def test_recursion_without_end(built) -> None:
    """A stack that is one return address and saved frame pointer over and over."""
    taken = snapshot(built("pointers"), "plain")
    low, into = taken.registers.rsp, taken.returns[2]
    stack = b"".join((low + 16 * (i + 1)).to_bytes(8, "little") + into.to_bytes(8, "little") for i in range(500))
    frames = unwind(replace(taken.registers, rbp=low), stack, taken.modules)
    assert len(frames) == MAX_FRAMES


def test_files_that_lie(built, tmp_path: Path) -> None:
    taken = snapshot(built("tables"), "plain")
    good = built("tables").read_bytes()
    elf = ElfFile(str(built("tables")))
    frame_sections = [s for s in elf.sections if s.name.startswith(".eh_frame")]
    dice = random.Random(7)
    for number in range(150):
        bad = bytearray(good)
        for _ in range(dice.randrange(1, 40)):
            section = dice.choice(frame_sections)
            place = section.offset + dice.randrange(section.size) if number % 3 else dice.randrange(len(bad))
            bad[place] = dice.choice([0, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        path = tmp_path / f"bad{number}"
        path.write_bytes(bad if number % 5 else bad[: dice.randrange(len(bad))])
        modules = tuple(
            replace(m, open_path=str(path), inode=number) if m.path == str(built("tables")) else m
            for m in taken.modules
        )
        assert len(unwind(taken.registers, taken.stack, modules)) <= MAX_FRAMES


def test_what_is_no_module_has_no_frames(tmp_path: Path) -> None:
    registers = Registers(0x1000, 0x2000, 0, 0, 0, 0, 0, 0)
    (tmp_path / "text").write_text("no ELF")
    module = Module(1, "text", str(tmp_path / "text"), 1, "0:0", False, (Mapping(0x1000, 0x2000, 0),))
    assert unwind(registers, bytes(64), ()) == unwind(registers, bytes(64), (module,)) == []


@pytest.mark.parametrize("library", ["libc.so.6", "libstdc++.so.6"])
def test_rows_are_those_of_readelf(library: str) -> None:
    """Every function of a library: where the CFA is, and where the return address is, against binutils."""
    path = next(Path("/usr/lib/x86_64-linux-gnu").glob(library), None)
    if path is None or not shutil.which("readelf"):
        pytest.skip("needs binutils and the library")
    elf = ElfFile(str(path))
    frames = CallFrames(elf)
    told = subprocess.run(
        ["readelf", "--debug-dump=frames-interp", path], capture_output=True, text=True, check=False
    ).stdout
    header: list[str] = []
    compared = 0
    function = 0
    for line in told.splitlines():
        words = line.replace("=", " ").split()
        if " FDE " in line:
            function = int(line.split("pc=")[1].split("..")[0], 16)
        elif " CIE " in line:
            function = 0
        elif words[:2] == ["LOC", "CFA"]:
            header = words
        elif function and len(words) == len(header) and len(words[0]) == 16:
            row = frames.at(int(words[0], 16))
            if row is None or words[1] == "exp":
                continue
            compared += 1
            register, offset = words[1].split("+")
            numbers = {"rdx": 1, "rbx": 3, "rbp": 6, "rsp": 7} | {f"r{n}": n for n in range(8, 16)}
            assert (row.register, row.offset) == (numbers[register], int(offset)), line
            rules = dict(row.rules)
            for name, value in zip(header[2:], words[2:], strict=True):
                number = {**numbers, "ra": 16}.get(name)
                if number in rules and value.startswith("c"):
                    assert rules[number].how == "offset" and rules[number].number == int(value[1:]), line
                elif value.startswith("c"):
                    assert number not in FOLLOWED, line
    assert compared > 5000


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("77 08 80 00 3f 1a 3b 2a 33 24 22", 1000 + 8),  # a PLT stub at its beginning: breg7+8, breg16 & 15 >= 11, << 3
        ("31 1f", (1 << 64) - 1),
        ("08 ff 09 ff 22", 254),
        ("10 80 01 23 05", 133),
        ("32 33 16 1c", 1),
        ("32 33 14 22 22", 7),
        ("11 7f 31 26", (1 << 64) - 1),
    ],
)
def test_expressions(expression: str, value: int) -> None:
    assert evaluate(bytes.fromhex(expression), {7: 1000, 16: 0x1020}, lambda _: 0) == value


@pytest.mark.parametrize("expression", ["", "22", "06", "ff", "08", "72 00", "30" * 65, "2f 00 00"])
def test_expressions_without_a_value(expression: str) -> None:
    def word(_: int) -> int:
        raise Unknown

    with pytest.raises(Unknown):
        evaluate(bytes.fromhex(expression), {}, word)
