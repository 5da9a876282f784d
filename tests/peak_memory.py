"""The most memory that a flowprof command held, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

# Not ru_maxrss: Linux keeps what the parent had held at the vfork, so that a large parent speaks for its child.
_MEASURED = """
import re, sys
from pathlib import Path
from flowprof.profiler.cli import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""


def peak_mb(*arguments: str) -> float:
    """MB (10⁶ bytes) of resident memory at its highest in `flowprof` with these arguments; SystemExit if it fails."""
    command = [sys.executable, "-c", _MEASURED, *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"flowprof {' '.join(arguments)} failed: {done.stderr}")
    return int(done.stderr.splitlines()[-1]) * 1.024 / 1000
