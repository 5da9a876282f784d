"""Which of a processor's instruction sets an engine was built for, as the build itself says.

ggml has a function for each set (`ggml_cpu_has_avx2` …) of which the compiler makes a constant: 1 where this build's
kernels use it. The constant is read from the function's code in the file; nothing is called. Wheels and packages are
mostly built for what every processor of ten years has, and say nowhere what they leave unused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.machine.processor import INSTRUCTIONS

if TYPE_CHECKING:
    from flowprof.profiler.binaries.elf import ElfFile

_FUNCTION = "ggml_cpu_has_"
_SETS = (  # ggml's name → the processor's, as in /proc/cpuinfo
    ("sse3", "sse3"), ("ssse3", "ssse3"), ("avx", "avx"), ("f16c", "f16c"), ("fma", "fma"), ("bmi2", "bmi2"),
    ("avx2", "avx2"), ("avx_vnni", "avx_vnni"), ("avx512", "avx512bw"), ("avx512_vbmi", "avx512vbmi"),
    ("avx512_vnni", "avx512_vnni"), ("avx512_bf16", "avx512_bf16"), ("amx_int8", "amx_int8"), ("neon", "asimd"),
    ("fp16_va", "asimdhp"), ("dotprod", "asimddp"), ("matmul_int8", "i8mm"), ("sve", "sve"), ("sme", "sme"),
)  # fmt: skip
_CODE_BYTES = 24
# Functions that return a constant, perhaps with a landing pad and a frame: mov eax, N or xor eax, eax; mov w0, #N.
_CONSTANT = {
    "x86-64": re.compile(
        rb"(?:\xf3\x0f\x1e\xfa)?(?:\x55\x48\x89\xe5)?(?:\xb8(?P<word>....)|[\x31\x33]\xc0)\x5d?\xc3", re.DOTALL
    ),
    "aarch64": re.compile(rb"(?:\x5f\x24\x03\xd5)?(?P<word>[\x00\x20])\x00\x80\x52\xc0\x03\x5f\xd6", re.DOTALL),
}


def built_for(elf: ElfFile) -> tuple[str, ...] | None:
    """The instruction sets that the build uses, named as in /proc/cpuinfo; None where it does not say."""
    symbols, found, said = elf.symbols(), [], False
    for name, flag in _SETS:
        symbol = symbols.get(_FUNCTION + name)
        value = None if symbol is None else _constant(elf, symbol.address)
        said |= value is not None
        if value:
            found.append(flag)
    return tuple(found) if said else None


def of_processor(flags: Iterable[str]) -> tuple[str, ...]:
    """Those of a processor's flags that a build could use."""
    known = {name for kinds in INSTRUCTIONS.values() for names in kinds.values() for name in names}
    return tuple(sorted(set(flags) & (known | {flag for _, flag in _SETS})))


def left_unused(build: Iterable[str], processor: Iterable[str], arch: str, dtype: str) -> tuple[str, ...]:
    """Sets of the processor that multiply `dtype` better than the best one of the build; best first."""
    ranking, used, there = INSTRUCTIONS.get(arch, {}).get(dtype, ()), set(build), set(processor)
    best = next((place for place, name in enumerate(ranking) if name in used), len(ranking))
    return tuple(name for name in ranking[:best] if name in there)


def _constant(elf: ElfFile, address: int) -> int | None:
    pattern = _CONSTANT.get(elf.machine)
    try:
        match = pattern.match(elf.read(address, _CODE_BYTES)) if pattern else None
    except FlowprofError:
        return None
    if match is None:
        return None
    return int(any(match["word"] or b""))
