"""The processor quota of a process's control group, and how often the kernel enforced it: of versions 1 and 2.

/proc/PID/cgroup names the group as seen from our cgroup namespace, a mount of the hierarchy says which part of it lies
where: our own mounts (/proc/self/mountinfo), else those of the process, which may be in a container
(/proc/PID/mountinfo, below /proc/PID/root). A quota binds all groups below it, so ancestors count, too. Where the
controller `cpu` belongs to version 1, as on hybrid hosts, version 2 has no quota. Source: the kernel's cgroup-v2.rst
and sched-bwc.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath

from flowprof.profiler.machine import kernel

PROC = Path("/proc")
US = 1_000  # ns
_ESCAPED = re.compile(r"\\([0-7]{3})")  # blanks in mountinfo


@dataclass(frozen=True, slots=True)
class Quota:
    """What a group may use, and what became of it since it was made, or in a recording. Throttled time adds up over
    its processors."""

    quota_us: int | None  # of processor time in each period; None: no limit
    period_us: int
    nr_periods: int  # in which it ran
    nr_throttled: int  # of those, in which it used up the quota
    throttled_ns: int

    @property
    def processors(self) -> float | None:
        """So many may it use all the time."""
        return None if self.quota_us is None or self.period_us <= 0 else self.quota_us / self.period_us


def groups(pid: int, proc: Path = PROC) -> list[Path]:
    """Folders of the process's group and its ancestors, as far as some mount shows them; none: it is not known."""
    for top, below in _places(pid, proc):
        if (top / below).is_dir():
            return [top / below, *(top / parent for parent in below.parents)]
    return []


def _places(pid: int, proc: Path) -> Iterator[tuple[Path, PurePosixPath]]:
    """Where the process's group could lie, the likeliest first: a mount, and the path below it."""
    memberships = _memberships(kernel.text(str(proc / str(pid) / "cgroup")))
    views = ((proc / "self", Path("/")), (proc / str(pid), proc / str(pid) / "root"))
    for (version, path), (who, root) in product(memberships, views):
        for within, where in _mounts(kernel.text(str(who / "mountinfo")), version):
            if path.is_relative_to(within) and ".." not in path.parts:
                yield root / where.relative_to("/"), path.relative_to(within)


def read(folder: Path) -> Quota | None:
    """A group's quota; None: it has none to speak of (the root, or the controller is not enabled there)."""
    stat = dict(line.split() for line in kernel.text(str(folder / "cpu.stat")).splitlines() if line.count(" ") == 1)
    if not {"nr_periods", "nr_throttled"} <= stat.keys():
        return None
    if limit := kernel.text(str(folder / "cpu.max")).split():
        quota, period = limit[0], limit[-1]
        throttled_ns = int(stat.get("throttled_usec", 0)) * US
    else:
        quota, period = (kernel.text(str(folder / f"cpu.cfs_{name}_us")).strip() for name in ("quota", "period"))
        throttled_ns = int(stat.get("throttled_time", 0))
    quota_us = int(quota) if quota.isdigit() else None  # max, -1
    return Quota(quota_us, int(period) if period.isdigit() else 0, int(stat["nr_periods"]), int(stat["nr_throttled"]),
                 throttled_ns)  # fmt: skip


def _memberships(text: str) -> list[tuple[int, PurePosixPath]]:
    """Version and path of the group that `cpu` could belong to, version 1 first: `4:cpu,cpuacct:/a`, `0::/b`."""
    found = []
    for line in text.splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "cpu" in controllers.split(","):
            found.append((1, PurePosixPath(path)))
        elif number == "0" and not controllers:
            found.append((2, PurePosixPath(path)))
    return sorted(found)


def _mounts(mountinfo: str, version: int) -> list[tuple[PurePosixPath, PurePosixPath]]:
    """Which part of the hierarchy lies where: fields 4 and 5 of proc_pid_mountinfo(5)."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == ("cgroup2" if version == 2 else "cgroup") and (version == 2 or "cpu" in kind[2].split(",")):
            found.append((_plain(fields[3]), _plain(fields[4])))
    return found


def _plain(text: str) -> PurePosixPath:
    return PurePosixPath(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), text))
