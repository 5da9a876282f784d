"""How often a processor quota held up a target's control group while it was recorded (machine/cgroup.py).

In table `counter`, with thread 0 for the whole group, of the group that was held up longest, else of the one with the
smallest quota: quota_us and period_us (absent without a quota), nr_periods, nr_throttled, throttled_ns. No row: the
kernel does not say.
"""

from __future__ import annotations

from pathlib import Path

from flowprof.profiler.machine import cgroup, kernel
from flowprof.profiler.machine.cgroup import Quota

GROUP = 0  # as a thread


class QuotaCounts:
    """Of one process's group and its ancestors; one that it is moved to counts from when that is first seen."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._membership: str | None = None
        self._folders: list[Path] = []
        self._before: dict[Path, Quota] = {}
        self._last: dict[Path, Quota] = {}
        self.look()

    def look(self) -> None:
        """Read now: a process that ends takes its group with it."""
        membership = kernel.text(f"/proc/{self._pid}/cgroup")
        if membership != self._membership:  # to find them takes a while where there are many mounts
            self._membership, self._folders = membership, cgroup.groups(self._pid)
        for folder in self._folders:
            if (quota := cgroup.read(folder)) is not None:
                self._before.setdefault(folder, quota)
                self._last[folder] = quota

    def columns(self) -> dict[str, list[object]]:
        """Table `counter`, as of the last look."""
        rows: list[tuple[object, ...]] = []
        if self._last:
            folder = max(self._last, key=self._weight)
            quota, before = self._last[folder], self._before[folder]
            values = {"quota_us": quota.quota_us, "period_us": quota.period_us} if quota.quota_us is not None else {}
            values |= {name: getattr(quota, name) - getattr(before, name)
                       for name in ("nr_periods", "nr_throttled", "throttled_ns")}  # fmt: skip
            rows = [(self._pid, GROUP, name, value) for name, value in values.items()]
        return {name: [row[i] for row in rows] for i, name in enumerate(("pid", "tid", "name", "value"))}

    def _weight(self, folder: Path) -> tuple[int, float]:
        processors = self._last[folder].processors
        return self._last[folder].throttled_ns - self._before[folder].throttled_ns, -(processors or float("inf"))
