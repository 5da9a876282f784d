"""Probe sites and static functions in the libraries that people really run, checked by other means.

The builds are packages from PyPI and npm, downloaded once into the cache folder. Stripped copies are made here, and
what is found in them is compared with the symbols of the original. The property test disassembles with binutils'
objdump instead of capstone and judges the chosen sites by its own simple rules (AArch64: by the bits of the words).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import tarfile
import time
from collections.abc import Callable
from functools import cache as cached
from pathlib import Path

import pytest
from flowprof.profiler import cache
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.ggml.build_instructions import built_for
from flowprof.profiler.planning.callgraph import compute_forward_candidates, find_graph_thread, node_barriers
from flowprof.profiler.planning.sites import CostClass, NoSite, Site, call_sites, choose_entry_site
from wheels import A64, run, wheel

pytestmark = pytest.mark.parallel

NODE = "@node-llama-cpp/linux-x64@3.22.1"
A64_BUILD = "xllamacpp==2026.10.11549"


@cached
def node_libraries() -> Path:
    """The folder of node-llama-cpp's shared libraries for x86-64."""
    folder = cache.made() / "node" / NODE.replace("/", "-")
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not shutil.which("npm"):
            pytest.skip(f"{NODE} cannot be had: npm is not installed")
        run(["npm", "pack", "--silent", "--pack-destination", str(folder.parent), NODE], NODE)
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        with tarfile.open(next(folder.parent.glob("node-llama-cpp-linux-x64-*.tgz"))) as archive:
            for member in archive:
                content = archive.extractfile(member) if Path(member.name).suffix in (".so", ".node") else None
                if content is not None:
                    part.mkdir(exist_ok=True)
                    (part / Path(member.name).name).write_bytes(content.read())
        part.rename(folder)
    return folder


def xllamacpp() -> Path:
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        pytest.skip("xllamacpp is not installed")
    return next(Path(found.origin).parent.glob("xllamacpp*.so"))


def one(folder: Path, pattern: str) -> Path:
    return next(folder.rglob(pattern))


LIBRARIES: dict[str, Callable[[], Path]] = {
    "xllamacpp": xllamacpp,
    "xllamacpp-aarch64": lambda: one(wheel(A64_BUILD, A64), "xllamacpp*.so"),
    "node-haswell": lambda: node_libraries() / "libggml-cpu-haswell.so",
    "node-x64": lambda: node_libraries() / "libggml-cpu-x64.so",
    "node-sapphirerapids": lambda: node_libraries() / "libggml-cpu-sapphirerapids.so",
    "ggml-2025": lambda: one(wheel("pywhispercpp==1.5.1"), "libggml-cpu.so"),
    "ggml-2024": lambda: one(wheel("pywhispercpp==1.3.0"), "libggml.so"),
    "ggml-spring-2024": lambda: one(wheel("pywhispercpp==1.2.0"), "libwhisper.so"),
    "ggml-2023": lambda: one(wheel("ctransformers==0.2.27"), "basic/libctransformers.so"),
}


AVX2 = {"sse3", "ssse3", "avx", "f16c", "fma", "avx2"}
BUILT_FOR = {  # by the names of the libraries, or by what the wheels' builds ask the compiler for
    "xllamacpp": AVX2 | {"bmi2"}, "xllamacpp-aarch64": {"asimd"}, "node-haswell": AVX2 | {"bmi2"}, "node-x64": set(),
    "node-sapphirerapids": AVX2 | {"bmi2", "avx512bw", "avx512vbmi", "avx512_vnni", "avx512_bf16", "amx_int8"},
    "ggml-2025": AVX2 | {"bmi2"}, "ggml-2024": AVX2, "ggml-spring-2024": AVX2, "ggml-2023": set(),
}  # fmt: skip


def opened(name: str) -> ElfFile:
    return ElfFile(str(LIBRARIES[name]()))


def hide_symtab(source: Path, target: Path) -> None:
    """A copy whose .symtab section is declared to be of no type."""
    shutil.copy(source, target)
    with open(target, "r+b") as file:
        header = file.read(64)
        start, count = struct.unpack_from("<Q", header, 40)[0], struct.unpack_from("<H", header, 60)[0]
        for at in range(start, start + 64 * count, 64):
            file.seek(at + 4)
            if file.read(4) == b"\2\0\0\0":
                file.seek(at + 4)
                file.write(bytes(4))


@pytest.fixture(scope="module")
def stripped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ElfFile]:
    """A copy with only .dynsym left, as `pip install llama-cpp-python` leaves its libraries."""
    made: dict[str, Path] = {}

    def strip(name: str) -> ElfFile:
        if name not in made:
            source, target = LIBRARIES[name](), tmp_path_factory.mktemp("stripped") / name
            if name.endswith("aarch64"):
                hide_symtab(source, target)  # this machine's `strip` knows its own kind only
            else:
                run(["strip", "-o", str(target), str(source)], f"a stripped copy of {name}")
            made[name] = target
        elf = ElfFile(str(made[name]))
        assert elf.stripped
        return elf

    return strip


def site(elf: ElfFile, name: str, args: int) -> tuple[int, str, str]:
    symbol = elf.symbols().get(name)
    assert symbol is not None
    found = choose_entry_site(elf, symbol.address, args)
    return found.address - symbol.address, found.instruction.split()[0], str(found.cost_class)


# -- the sites that matter, read off the disassembly by a person ------------------------------------------------------

SITES = [
    ("xllamacpp", "ggml_cpu_extra_compute_forward", 2, (0, "push", "emulated")),
    ("xllamacpp", "ggml_barrier", 1, (7, "je", "emulated")),
    ("xllamacpp", "ggml_graph_compute", 2, (0, "push", "emulated")),
    ("xllamacpp", "ggml_compute_forward_rms_norm_mul_fused", 3, (16, "push", "emulated")),
    ("node-haswell", "ggml_cpu_extra_compute_forward", 2, (4, "push", "emulated")),
    ("node-haswell", "ggml_barrier", 1, (14, "je", "emulated")),
    ("node-haswell", "ggml_graph_compute", 2, (4, "push", "emulated")),
    ("node-x64", "ggml_cpu_extra_compute_forward", 2, (4, "push", "emulated")),
    ("node-x64", "ggml_barrier", 1, (14, "je", "emulated")),
    ("node-sapphirerapids", "ggml_barrier", 1, (14, "je", "emulated")),
    ("xllamacpp-aarch64", "ggml_cpu_extra_compute_forward", 2, (24, "bl", "emulated")),
    ("xllamacpp-aarch64", "ggml_barrier", 1, (0, "add", "single-stepped")),
    ("xllamacpp-aarch64", "ggml_barrier", 0, (16, "b.eq", "emulated")),
    ("xllamacpp-aarch64", "ggml_graph_compute", 2, (28, "bl", "emulated")),
    ("ggml-2023", "ggml_compute_forward", 2, (4, "ja", "emulated")),
    ("ggml-2023", "ggml_graph_compute", 2, (4, "push", "emulated")),
    ("ggml-spring-2024", "ggml_compute_forward", 2, (5, "je", "emulated")),
]


@pytest.mark.parametrize(("library", "name", "args", "expected"), SITES, ids=[f"{s[0]}-{s[1]}-{s[2]}" for s in SITES])
def test_chosen_offsets(library: str, name: str, args: int, expected: tuple[int, str, str]) -> None:
    assert site(opened(library), name, args) == expected


@pytest.mark.engine
def test_barrier_calls_of_the_known_build() -> None:
    elf = opened("xllamacpp")
    thread = find_graph_thread(elf)
    assert thread is not None
    calls = call_sites(elf, thread, "ggml_barrier")
    found = node_barriers(elf, thread)
    assert {c.cost_class for c in calls} == {CostClass.EMULATED}
    assert {c.address for c in calls} == {*found.node, *found.last, *found.inner}
    assert len(found.node) == len(found.last) == 1
    if importlib.metadata.version("xllamacpp") == A64_BUILD.split("==")[1]:
        assert (thread, found.node, found.last, found.inner) == (0xE1A250, (0xE1A44E,), (0xE1A482,), (0xE1B362,))


# -- stripped libraries against the symbols of the original -----------------------------------------------------------

THREADS = {
    "xllamacpp": "ggml_graph_compute_thread",
    "xllamacpp-aarch64": "ggml_graph_compute_thread",
    "node-haswell": "ggml_graph_compute_thread",
    "node-x64": "ggml_graph_compute_thread",
    "ggml-2025": "ggml_graph_compute_thread",
    "ggml-2024": "ggml_graph_compute_thread",
    "ggml-spring-2024": None,  # its barrier is inlined
    "ggml-2023": None,
}
FORWARDS = dict.fromkeys(THREADS, 0) | {"ggml-2024": 1, "ggml-spring-2024": 2, "ggml-2023": 1}


@pytest.mark.parametrize("library", THREADS)
def test_graph_thread_of_a_stripped_library(stripped: Callable[[str], ElfFile], library: str) -> None:
    found = find_graph_thread(stripped(library))
    if THREADS[library] is None:
        assert found is None
        return
    assert found is not None
    symbol = opened(library).symbols().at(found)
    assert symbol is not None and symbol.address == found and symbol.name.startswith(str(THREADS[library]))


@pytest.mark.parametrize("library", FORWARDS)
def test_compute_forward_of_a_stripped_library(stripped: Callable[[str], ElfFile], library: str) -> None:
    """All of the static function and its specialised copies, nothing else; none where it is inlined into the thread."""
    symbols = opened(library).symbols()
    found = compute_forward_candidates(stripped(library))
    truth = {s.address for s in symbols.match(r"ggml_compute_forward(\.constprop\.\d+|\.isra\.\d+)*$")}
    assert set(found) == truth and len(found) == FORWARDS[library]


@pytest.mark.parametrize("library", [name for name, thread in THREADS.items() if thread])
def test_barriers_of_a_stripped_library(stripped: Callable[[str], ElfFile], library: str) -> None:
    elf = stripped(library)
    thread = find_graph_thread(elf)
    assert thread is not None
    found = node_barriers(elf, thread)
    assert found == node_barriers(opened(library), thread)
    assert len(found.node) == 1 and len(found.last) <= 1


# -- the property, judged by other means ------------------------------------------------------------------------------

ALIASES = {
    "rdi": {"rdi", "edi", "di", "dil"},
    "rsi": {"rsi", "esi", "si", "sil"},
    "rdx": {"rdx", "edx", "dx", "dl", "dh"},
    "rcx": {"rcx", "ecx", "cx", "cl", "ch"},
    "r8": {"r8", "r8d", "r8w", "r8b"},
    "r9": {"r9", "r9d", "r9w", "r9b"},
}
READERS = re.compile(r"(cmp|test|push|bt|nop|u?comis|j|call|ret|endbr|prefetch)(?!mpxchg)")
IMPLICIT = {
    re.compile(r"(mul|div|idiv|imul)[bwlq]?$"): {"rdx"},
    re.compile(r"(cqto|cltd|cwtd|cpuid|rdtscp?|xgetbv)$"): {"rdx", "rcx"},
    re.compile(r"(rep.*|movs[bwlq]|stos[bwlq]|lods[bwlq]|scas[bwlq]|cmps[bwlq])$"): {"rdi", "rsi", "rcx"},
}


@cached
def objdump(path: str, start: int, end: int) -> list[tuple[int, str, str]]:
    command = ["objdump", "-d", "-w", "--no-show-raw-insn", f"--start-address={start}", f"--stop-address={end}", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^ *([0-9a-f]+):\t(?:(?:bnd|notrack|rex\S*|data16|lock|cs|ds) )*(\S+) *([^#<\n]*)", text, re.M)
    return [(int(a, 16), verb, operands.strip()) for a, verb, operands in lines]


def overwritten(verb: str, operands: str) -> set[str]:
    """Argument registers that an instruction in AT&T syntax writes. The simplest rule: the last operand is the goal."""
    found = {r for pattern, registers in IMPLICIT.items() if pattern.match(verb) for r in registers}
    if verb.startswith(("imul", "mul", "div")) and "," in operands:
        found = set()
    if not READERS.match(verb):
        registers = re.sub(r"\(.*?\)", "", operands)
        goals = re.findall(r"%\w+" if verb[:4] in ("xchg", "xadd") else r"%\w+$", registers)
        found |= {whole for whole, names in ALIASES.items() for goal in goals if goal[1:] in names}
    return found


def judge_x86(elf: ElfFile, start: int, end: int, chosen: Site, args: int) -> str | None:
    lines = objdump(elf.path, start, end)
    before = [line for line in lines if line[0] < chosen.address]
    if chosen.address not in {line[0] for line in lines}:
        return "no instruction begins there"
    for _, verb, operands in before:
        if verb.startswith(("j", "call", "ret", "loop", "ud2", "hlt", "syscall")):
            return f"{verb} before it"
        if overwritten(verb, operands) & set(list(ALIASES)[:args]):
            return f"{verb} {operands} before it"
    for at, verb, operands in lines:
        goal = re.match(r"[0-9a-f]+$", operands) if verb.startswith(("j", "loop")) else None
        if goal and start <= int(goal[0], 16) <= chosen.address:
            return f"{verb} at {at:#x} lands on {goal[0]}"
    return None


def judge_a64(elf: ElfFile, start: int, end: int, chosen: Site, args: int) -> str | None:
    code = elf.read(start, end - start)
    for at in range(start, end - 3, 4):
        word = int.from_bytes(code[at - start : at - start + 4], "little")
        bits = next((b for m, v, s, b in JUMPS if word & m == v), 0)
        if bits:
            shift = 5 if bits < 26 else 0
            distance = word >> shift & (1 << bits) - 1
            distance -= (distance >> bits - 1) << bits
            if word >> 26 != 0b100101 and start <= at + 4 * distance <= chosen.address:
                return f"a branch at {at:#x} lands at {at + 4 * distance:#x}"
        if at < chosen.address:
            if bits or word & 0xFE000000 == 0xD6000000:
                return f"a branch at {at:#x} before it"
            store = word & 0x3A400000 == 0x28000000 or word & 0x3AC00000 == 0x38000000
            store = store and word & 0x3B200C00 != 0x38200000  # an atomic operation gives a result
            vector = word & 0x0E000000 == 0x0E000000 or word & 0x0C000000 == 0x0C000000
            compares = word & 0x3FE00000 == 0x3A400000  # ccmp, ccmn: flags in the place of the result
            written = set() if store or vector or compares else {word & 31}
            if not vector and word & 0x3A000000 == 0x28000000 and word & 1 << 22:
                written.add(word >> 10 & 31)
            indexed = word & 0x3B200400 == 0x38000400 or word & 0x3A800000 == 0x28800000
            written |= {word >> 5 & 31} if indexed else set()
            if written & set(range(args)):
                return f"{word:08x} at {at:#x} writes x{written} before it"
    return None


JUMPS = [  # mask, value, where, bits of the distance
    (0xFC000000, 0x14000000, 0, 26),
    (0xFC000000, 0x94000000, 0, 26),
    (0xFF000000, 0x54000000, 5, 19),
    (0x7E000000, 0x34000000, 5, 19),
    (0x7E000000, 0x36000000, 5, 14),
]


@pytest.mark.parametrize("library", ["xllamacpp", "xllamacpp-aarch64", "node-haswell", "ggml-2025", "ggml-spring-2024"])
def test_every_chosen_site_is_valid(library: str) -> None:
    """A spread of the functions (objdump takes its time): nothing branches there, no argument is lost before."""
    elf = opened(library)
    named = [
        s
        for s in elf.symbols().match(r"(ggml|llama|gguf|whisper|_ZN?K?\d+(ggml|llama|server))")
        if s.kind == "function"
    ]
    functions = [s for s in named if 0 < s.size < 50_000 and ".cold" not in s.name]
    judge, most = (judge_a64, 600) if elf.machine == "aarch64" else (judge_x86, 120)
    kinds: dict[str, int] = {}
    wrong = []
    assert len(functions) > 100
    for symbol in functions[:: max(1, len(functions) // most)]:
        for args in (1, 3):
            try:
                chosen = choose_entry_site(elf, symbol.address, args)
            except NoSite as e:
                kinds["refused"] = kinds.get("refused", 0) + 1
                assert e.message
                continue
            kinds[chosen.cost_class] = kinds.get(chosen.cost_class, 0) + 1
            verdict = judge(elf, symbol.address, symbol.address + symbol.size, chosen, args)
            if verdict:
                wrong.append(f"{symbol.name} at {chosen.address:#x} ({args} arguments): {verdict}")
    assert not wrong, "\n".join(wrong[:20])
    assert kinds["emulated"] > 2 * kinds.get("refused", 0)


# -- speed ------------------------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_large_library_opens_fast() -> None:
    """106 MB, 64 000 symbols: open it, look up ten, choose sites; the goal for all of `list-probes` is a second."""
    path = str(xllamacpp())
    names = ("ggml_barrier", "ggml_graph_compute", "ggml_op_name", "ggml_type_name", "llama_decode", "ggml_cpu_init")
    best = 9.0
    for _ in range(3):
        began = time.perf_counter()
        elf = ElfFile(path)
        found = [elf.symbols().get(name) for name in names]
        best = min(best, time.perf_counter() - began)
        assert sum(s is not None for s in found) >= 5
    assert best < 0.3


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_a_build_is_for(name: str, stripped: Callable[[str], ElfFile]) -> None:
    """All its kernels' instruction sets, with symbols and, where the functions are exported, without."""
    assert set(built_for(opened(name)) or ()) == BUILT_FOR[name] and built_for(opened(name)) is not None
    bare = built_for(stripped(name))
    assert bare is None or set(bare) == BUILT_FOR[name]
