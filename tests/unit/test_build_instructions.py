"""What an engine was built for is read from functions that return a constant, and from nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from flowprof.profiler.binaries.elf import ElfFile
from flowprof.profiler.ggml.build_instructions import built_for, left_unused, of_processor

SOURCE = """
int ggml_cpu_has_avx2(void) { return 1; }
int ggml_cpu_has_fma(void) { return 1; }
int ggml_cpu_has_amx_int8(void) { return 0; }
int known_at_run_time;
int ggml_cpu_has_sve(void) { return known_at_run_time; }
int ggml_cpu_has_llamafile(void) { return 1; }
"""
PROCESSOR = ("amx_int8", "avx2", "avx512_vnni", "avx512bw", "avx_vnni", "fma")


@pytest.mark.parametrize("flags", ["-O0", "-O2", "-O2 -fcf-protection=full", "-O2 -fno-omit-frame-pointer"])
def test_constants(tmp_path: Path, flags: str) -> None:
    path = tmp_path / "library.so"
    command = ["gcc", *flags.split(), "-shared", "-fPIC", "-x", "c", "-o", path, "-"]
    subprocess.run(command, input=SOURCE, text=True, check=True)
    assert built_for(ElfFile(str(path))) == ("fma", "avx2")


def test_a_library_that_does_not_say(tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    source = "int value; int ggml_cpu_has_avx2(void) { return value; }"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-x", "c", "-o", path, "-"], input=source, text=True, check=True)
    assert built_for(ElfFile(str(path))) is None


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        ((), ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2")),
        (("avx2", "fma"), ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw")),
        (("avx2", "avx_vnni"), ("amx_int8", "avx512_vnni")),
        (("avx2", "avx512bw", "avx512_vnni"), ("amx_int8",)),
        (("amx_int8",), ()),
    ],
)
def test_what_is_left_unused(build: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert left_unused(build, PROCESSOR, "x86_64", "int8") == expected
    assert left_unused(build, ("avx2", "fma"), "x86_64", "int8") == (() if build else ("avx2",))
    assert left_unused(build, PROCESSOR, "riscv64", "int8") == ()


def test_only_what_kernels_may_use_is_recorded() -> None:
    assert of_processor({"fpu", "avx2", "asimddp", "hypervisor", "fma"}) == ("asimddp", "avx2", "fma")
