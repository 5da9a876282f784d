"""Mangled names as people write them, and what hostile ones cost."""

from __future__ import annotations

import subprocess
import sys

from flowprof.profiler.binaries import demangle_child
from flowprof.profiler.binaries.demangle import MAX_NAME, demangled

GEMM = "_ZN4gemm6kernelIfLi128EEEvPKT_S3_PS1_"


def bomb(levels: int) -> str:
    """A function of pairs of pairs of pairs: each level is twice as long as the last, for ten more characters."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return "_Z1fSt4pairIiiE" + "".join(f"S_IS{digits[level]}_S{digits[level]}_E" for level in range(levels))


def test_names() -> None:
    assert demangled([GEMM, "_Z8rms_normPKfPfi", "main", "", "_Znonsense", "a b\x1b", "_Z" + "x" * 9000]) == {
        GEMM: "void gemm::kernel<float, 128>(float const*, float const*, float*)",
        "_Z8rms_normPKfPfi": "rms_norm(float const*, float*, int)",
        "main": "main", "": "", "_Znonsense": "_Znonsense", "a b\x1b": "a b\x1b",
        "_Z" + "x" * 9000: "_Z" + "x" * (MAX_NAME - 2),
    }  # fmt: skip
    assert demangled([]) == {}


def test_short_names_that_stand_for_much() -> None:
    """The bomb's text has a line for every level: the demangler would take all memory, and its process ends."""
    assert demangled([bomb(1)])[bomb(1)].startswith("f(std::pair<int, int>, std::pair<std::pair<int, int>, ")
    names = [GEMM, bomb(33), "_Z1gi"]
    found = demangled(names)
    assert found[GEMM].startswith("void gemm") and found["_Z1gi"] == "g(int)", "those beside it are read"
    assert len(found[bomb(33)]) <= MAX_NAME


def test_the_child_has_limits_before_it_reads_names() -> None:
    script = (
        "import resource, sys; sys.argv = ['', '4096']; sys.path.insert(0, '.');"
        f"exec(open({demangle_child.__file__!r}).read().replace('sys.stdin.buffer.read()', 'b\"\"'));"
        "print(resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CPU)[0])"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == [str(demangle_child.MEMORY_BYTES), str(demangle_child.SECONDS)]
