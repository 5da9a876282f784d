"""Under what a machine's ceilings were measured, and whether that still holds.

A ceiling outlives what it was measured under: a new kernel or microcode brings mitigations, memory is added or taken
away, a guest moves to another host. The processor's model, the processors allowed and a quota are in the name of the
cached file (ceilings_file.py): a change there finds no file.
"""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Mapping

from flowprof.profiler.machine import kernel

MAX_AGE_DAYS = 90
MEMORY_MARGIN = 0.1  # of it, by which guests' memory may grow and shrink
_WORDS = {"kernel": "the kernel", "microcode": "the microcode"}


def now() -> dict[str, str]:
    """day (UTC, 2026-11-22), kernel, microcode and memory_gib of this machine; what it does not say is absent."""
    microcode = re.search(r"^microcode\s*:\s*(\S+)", kernel.cpuinfo(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", kernel.text("/proc/meminfo"), re.MULTILINE)
    found = {
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "kernel": platform.release(),
        "microcode": microcode[1] if microcode else "",
        "memory_gib": f"{int(memory[1]) / (1 << 20):.1f}" if memory else "",
    }
    return {name: value for name, value in found.items() if value}


def changes(then: Mapping[str, str], today: Mapping[str, str]) -> list[str]:
    """In words what is not as it was; of what either does not say nothing is known, and nothing said."""
    both = {name: (then[name], today[name]) for name in then if name in today}
    found = [
        f"{words} was {both[name][0]} and is {both[name][1]}"
        for name, words in _WORDS.items()
        if name in both and both[name][0] != both[name][1]
    ]
    if "memory_gib" in both and _differ(*both["memory_gib"]):
        found.append(f"there were {both['memory_gib'][0]} GiB of memory and are {both['memory_gib'][1]}")
    if "day" in both and (age := _days(*both["day"])) > MAX_AGE_DAYS:
        found.append(f"that was {age} days ago")
    return found


def _differ(then: str, today: str) -> bool:
    try:
        return abs(float(then) - float(today)) > MEMORY_MARGIN * float(then)
    except ValueError:
        return False


def _days(then: str, today: str) -> int:
    try:
        return (datetime.date.fromisoformat(today) - datetime.date.fromisoformat(then)).days
    except ValueError:
        return 0
