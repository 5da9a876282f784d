"""The processors that this process may use: which, their cores and caches, their instructions, who else is on them.

Reads /proc, /sys and the scheduler's mask; nothing is measured here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flowprof.profiler.machine import kernel

CPUS = Path("/sys/devices/system/cpu")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_HERTZ = os.sysconf("SC_CLK_TCK")

# The names in /proc/cpuinfo of the instructions that multiply a data type, by machine. f16c is not among them: it
# only converts, such products run as f32. AVX2 multiplies int8 by vpmaddubsw, so every CPU with it has a path.
INSTRUCTIONS = {
    "x86_64": {
        "int8": ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2"),
        "bf16": ("amx_bf16", "avx512_bf16"),
        "f16": ("amx_fp16", "avx512_fp16"),
    },
    "aarch64": {"int8": ("i8mm", "asimddp", "asimd"), "bf16": ("bf16",), "f16": ("asimdhp",)},
}


@dataclass(frozen=True, slots=True)
class Processors:
    """cpus: those allowed, sorted. Sizes are of one instance of the cache, 0 where the kernel names none.

    llc_count: instances of the last level (beyond L2) that the allowed CPUs reach.
    """

    cpus: tuple[int, ...]
    cores: int
    l2_bytes: int
    llc_bytes: int
    llc_count: int
    flags: frozenset[str]
    guest: bool


def read(root: Path = CPUS, cpuinfo: str | None = None, cpus: Iterable[int] | None = None) -> Processors:
    """The processors of this machine that this process may use."""
    allowed = tuple(sorted(os.sched_getaffinity(0) if cpus is None else cpus))
    cores = {_text(root / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu) for cpu in allowed}
    caches: dict[int, dict[str, int]] = {}  # level → which CPUs share an instance → its size
    for cpu in allowed:
        for index in sorted((root / f"cpu{cpu}" / "cache").glob("index*")):
            level, size = _text(index / "level"), _size(_text(index / "size"))
            if _text(index / "type") in ("Unified", "Data") and level.isdigit() and size:
                caches.setdefault(int(level), {})[_text(index / "shared_cpu_list") or str(cpu)] = size
    last = max(caches, default=0)
    shared = caches[last] if last > 2 else {}
    flags = _flags(kernel.cpuinfo() if cpuinfo is None else cpuinfo)
    return Processors(
        cpus=allowed,
        cores=len(cores),
        l2_bytes=max(caches.get(2, {}).values(), default=0),
        llc_bytes=max(shared.values(), default=0),
        llc_count=len(shared),
        flags=flags,
        guest="hypervisor" in flags,
    )


def instructions(flags: frozenset[str], machine: str, dtype: str) -> str:
    """The best instruction set of this CPU that multiplies `dtype`, or an empty string."""
    return next((name for name in INSTRUCTIONS.get(machine, {}).get(dtype, ()) if name in flags), "")


def thread_counts(cpus: int, cores: int) -> tuple[int, ...]:
    """Powers of two up to `cpus`, the number of cores, and `cpus`: ascending."""
    powers = (1 << power for power in range(cpus.bit_length()) if 1 << power <= cpus)
    return tuple(sorted({*powers, min(cores, cpus), cpus}))


def busy_seconds(cpus: Iterable[int]) -> float:
    """Processor time that was spent on these CPUs since boot, by anyone, stolen time of a guest included."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    ticks = 0
    for line in kernel.text("/proc/stat").splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / _HERTZ


def spare_memory_bytes() -> int:
    """What can be allocated without swapping, the control group's limit respected."""
    import psutil

    spare = int(psutil.virtual_memory().available)
    limit, used = (_text(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return min(spare, max(0, int(limit) - int(used))) if limit.isdigit() and used.isdigit() else spare


def _flags(cpuinfo: str) -> frozenset[str]:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _size(text: str) -> int:
    digits, unit = text.rstrip("KMG"), text[-1:]
    return int(digits) * _UNITS.get(unit, 1) if digits.isdigit() else 0


def _text(path: Path) -> str:
    return kernel.text(str(path)).strip()
