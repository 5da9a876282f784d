"""The running kernel's own word on `probe_cost.py`: what it says is emulated is cheap, what it says is stepped is dear.

Functions that begin with one instruction each are called in a loop with a probe on that instruction. They still have to
compute what they computed without it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import pytest
from flowprof.profiler.binaries.disassembly import instructions
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.kernel_side import attach, bpf
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.sites import CostClass, NoSite, choose_entry_site, probe_cost

# name, instructions in AT&T syntax; each function returns its argument plus one
SHAPES = [
    ("push", "push %rbp; pop %rbp; lea 1(%rdi), %rax; ret"),
    ("push_r12", "push %r12; pop %r12; lea 1(%rdi), %rax; ret"),
    ("nop", "nop; lea 1(%rdi), %rax; ret"),
    ("nop2", ".byte 0x66,0x90; lea 1(%rdi), %rax; ret"),
    ("nop3", ".byte 0x0f,0x1f,0x00; lea 1(%rdi), %rax; ret"),
    ("nop5", ".byte 0x0f,0x1f,0x44,0,0; lea 1(%rdi), %rax; ret"),
    ("jmp", "jmp 1f; ud2; 1: lea 1(%rdi), %rax; ret"),
    ("jmp32", ".byte 0xe9,2,0,0,0; ud2; lea 1(%rdi), %rax; ret"),
    ("jcc_not_taken", "jrcxz 2f; 2: cmp %rdi, %rdi; jne 1f; lea 1(%rdi), %rax; ret; 1: ud2"),
    ("call", "call 1f; ret; 1: lea 1(%rdi), %rax; ret"),
    ("mov", "mov %rdi, %rax; inc %rax; ret"),
    ("lea_rip", "lea 0(%rip), %rax; lea 1(%rdi), %rax; ret"),
    ("endbr64", "endbr64; lea 1(%rdi), %rax; ret"),
    ("pause", "pause; lea 1(%rdi), %rax; ret"),
    ("lea", "lea 1(%rdi), %rax; ret"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if platform.machine() != "x86_64" or not shutil.which("gcc"):
        pytest.skip("the functions are written for x86-64 and need gcc")
    folder = tmp_path_factory.mktemp("shapes")
    functions = [
        f".globl {name}\n.type {name}, @function\n{name}: {code}\n.size {name}, . - {name}\n.balign 16"
        for name, code in SHAPES
    ]
    (folder / "shapes.s").write_text(".text\n" + "\n".join(functions) + '\n.section .note.GNU-stack,"",@progbits\n')
    (folder / "loop.c").write_text(
        "long around(long (*f)(long), long n) { long x = 0; while (n--) x = f(x); return x; }"
    )
    command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(folder / "shapes.so"), "shapes.s", "loop.c"]
    subprocess.run(command, check=True, cwd=folder)
    return folder / "shapes.so"


@pytest.mark.bpf
def test_the_kernel_agrees(library: Path) -> None:
    loaded, elf = ctypes.CDLL(str(library)), ElfFile(str(library))
    loaded.around.argtypes, loaded.around.restype = [ctypes.c_void_p, ctypes.c_long], ctypes.c_long
    multi = kernel.version() >= kernel.UPROBE_MULTI
    program = bpf.Module("doctor.bpf.c", ring_shift=12, multi=multi).program("nothing")
    costs: dict[str, tuple[CostClass | None, float]] = {}
    for name, _ in SHAPES:
        symbol = elf.symbols().get(name)
        assert symbol is not None
        first = next(instructions("x86-64", elf.read(symbol.address, symbol.size), symbol.address, 1))
        stated = probe_cost("x86-64", first.data, kernel.version())
        function = ctypes.cast(getattr(loaded, name), ctypes.c_void_p)
        point = attach.AttachPoint(str(library), elf.file_offset(symbol.address), 0)
        held = attach.attach(program, [point], pid=os.getpid(), multi=multi)
        try:
            rounds = []
            for _ in range(5):
                began = perf_counter_ns()
                assert loaded.around(function, 300) == 300, f"{name} computes something else with a probe on it"
                rounds.append((perf_counter_ns() - began) / 300)
        finally:
            held.close()
        costs[name] = (stated, median(rounds))
    cheap, dear = costs["push"][1], costs["mov"][1]
    report = "\n".join(f"{name:14} {stated} {ns:8.0f} ns" for name, (stated, ns) in costs.items())
    print(report)
    if dear < 2 * cheap:
        pytest.skip(f"single-stepping costs too little here to tell ({cheap:.0f} and {dear:.0f} ns)")
    middle = (cheap * dear) ** 0.5
    wrong = {n: (s, ns) for n, (s, ns) in costs.items() if (s is CostClass.EMULATED) != (ns < middle)}
    assert not wrong, report


@pytest.mark.bpf
def test_the_kernel_takes_every_chosen_site(library: Path) -> None:
    """All functions of the C library that this process has loaded: no site that the kernel refuses."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    path = next((line.split()[-1] for line in maps if "/libc.so" in line or "/libc-" in line), None)
    if path is None:
        pytest.skip("no glibc is loaded here")
    elf = ElfFile(path)
    # not what the profiler itself runs on while they are attached: only functions that nobody calls now
    symbols = [s for s in elf.symbols().match("(wcs|wmem|str|mem|getnet|hcreate|envz|argz|xdr|svc|ether)") if s.size]
    points = []
    for symbol in symbols:
        try:
            site = choose_entry_site(elf, symbol.address, 3, kernel.version())
        except NoSite:
            continue
        points.append(attach.AttachPoint(path, site.file_offset, 0))
    assert len(points) > 50
    multi = kernel.version() >= kernel.UPROBE_MULTI
    program = bpf.Module("doctor.bpf.c", ring_shift=12, multi=multi).program("nothing")
    child = subprocess.Popen(["sleep", "30"])
    try:
        attach.attach(program, points if multi else points[:20], pid=child.pid, multi=multi).close()
    finally:
        child.kill()
        child.wait()
