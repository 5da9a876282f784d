"""Facts about the host that make recordings of different machines comparable. Reads /proc and /sys only."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from flowprof.profiler.ggml.build_instructions import of_processor
from flowprof.profiler.machine import kernel, processor

_CPU = "/sys/devices/system/cpu"
SETTINGS = {  # of the machine, that change how fast it is: where each is read
    "cpu_governor": f"{_CPU}/cpu0/cpufreq/scaling_governor",
    "cpu_max_khz": f"{_CPU}/cpu0/cpufreq/scaling_max_freq",
    "cpu_boost": f"{_CPU}/cpufreq/boost",
    "no_turbo": f"{_CPU}/intel_pstate/no_turbo",
    "smt": f"{_CPU}/smt/control",
    "transparent_hugepage": "/sys/kernel/mm/transparent_hugepage/enabled",
    "numa_nodes": "/sys/devices/system/node/online",
    "numa_balancing": "/proc/sys/kernel/numa_balancing",
}


def facts(cpus: Iterable[int] | None = None) -> dict[str, str]:
    """host, boot_id, kernel, arch, cpu_model, cpus, cpu_instructions (sets that kernels may use), llc_bytes (one
    last-level cache), llc_count (so many of them do the processors `cpus` reach; None: those of this process),
    gpu_model and SETTINGS (absent where the host has none)."""
    cpuinfo = kernel.cpuinfo()
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    found = {
        "host": platform.node(),
        "boot_id": kernel.text("/proc/sys/kernel/random/boot_id").strip(),
        "kernel": f"{platform.system()} {platform.release()}",
        "arch": platform.machine(),
        "cpu_model": model[1].strip() if model else "",
        "cpus": str(os.cpu_count() or 0),
    }
    own = processor.read(cpuinfo=cpuinfo, cpus=cpus)
    if own.llc_bytes:
        found["llc_bytes"], found["llc_count"] = str(own.llc_bytes), str(own.llc_count)
    found["cpu_instructions"] = " ".join(of_processor(own.flags))
    for key, path in SETTINGS.items():
        text = kernel.text(path).strip()
        chosen = re.search(r"\[(\w+)\]", text)  # one of several: always [madvise] never
        if text:
            found[key] = chosen[1] if chosen else text[:100]
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if gpus:
        name = re.search(r"^Model:\s*(.+)$", kernel.text(str(gpus[0])), re.MULTILINE)
        found["gpu_model"] = f"{len(gpus)} x {name[1].strip()}" if name else f"{len(gpus)} NVIDIA GPU(s)"
    return found
