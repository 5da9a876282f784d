"""A control group with a processor quota for a running process, as docker --cpus and Kubernetes' limits make them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PERIOD_US = 50_000


@contextmanager
def of(pid: int, processors: float) -> Iterator[Path]:
    """The process may use so many processors while the block runs; yields its group's cpu.stat. Needs root.

    The hierarchy is mounted for it, wherever the host has it: version 1 where `cpu` belongs to that, else 2. Raises
    OSError or CalledProcessError where that is not possible.
    """
    rows = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()]
    old = any(name == "cpu" and hierarchy != "0" for name, hierarchy, *_ in rows)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run(["mount", "-t", *(("cgroup", "-o", "cpu") if old else ("cgroup2",)), "none", root], check=True)
        try:
            with _group(root, pid, processors, old) as group:
                yield group / "cpu.stat"
        finally:
            subprocess.run(["umount", root], check=True)


@contextmanager
def _group(root: Path, pid: int, processors: float, old: bool) -> Iterator[Path]:
    group, control = root / f"flowprof-{os.getpid()}", root / "cgroup.subtree_control"
    added = not old and "cpu" not in control.read_text().split()
    limit = int(PERIOD_US * processors)
    settings = (
        {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": limit, "cpu.shares": 262_144}
        if old
        else {"cpu.max": f"{limit} {PERIOD_US}", "cpu.weight": 10_000}
    )
    try:
        if added:
            control.write_text("+cpu")
        group.mkdir()
        for name, value in settings.items():
            (group / name).write_text(str(value))
        (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        if group.exists():
            (root / "cgroup.procs").write_text(str(pid))
            group.rmdir()
        if added:
            control.write_text("-cpu")
