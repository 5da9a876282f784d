"""Facts about the host that make recordings of different machines comparable. Reads /proc and /sys only."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from flowprof.profiler import kernel


def facts() -> dict[str, str]:
    """host, boot_id, kernel, arch, cpu_model, cpus, gpu_model (absent where the host has none)."""
    cpuinfo = kernel.text("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    found = {
        "host": platform.node(),
        "boot_id": kernel.text("/proc/sys/kernel/random/boot_id").strip(),
        "kernel": f"{platform.system()} {platform.release()}",
        "arch": platform.machine(),
        "cpu_model": model[1].strip() if model else "",
        "cpus": str(os.cpu_count() or 0),
    }
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if gpus:
        name = re.search(r"^Model:\s*(.+)$", kernel.text(str(gpus[0])), re.MULTILINE)
        found["gpu_model"] = f"{len(gpus)} x {name[1].strip()}" if name else f"{len(gpus)} NVIDIA GPU(s)"
    return found
