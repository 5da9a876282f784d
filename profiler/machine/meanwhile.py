"""What the machine did while a recording ran: its clock, what a hypervisor took, heat, and where memory lay.

/proc and /sys are read twice, at the start and at the end, so that nothing is added to what is recorded in between:

* clock: the processors' present frequency, the mean over those that the target may use (cpufreq; guests have none);
* steal: processor time in which a hypervisor ran somebody else (steal of /proc/stat);
* throttles: how often processors were slowed for their heat (thermal_throttle, x86);
* memory: bytes of the targets on each NUMA node (numa_maps), where there are several; and of all that is resident, how
  much lies in huge pages (smaps_rollup).

Both count what is mapped page by page, before the first window and after the last: 8 ms for a GiB of small pages.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from flowprof.profiler.machine import kernel

CPU, PROC = "/sys/devices/system/cpu", "/proc"
NODES = "/sys/devices/system/node/online"
_HUGE = ("AnonHugePages", "FilePmdMapped", "ShmemPmdMapped", "Shared_Hugetlb", "Private_Hugetlb")


class Meanwhile:
    """Counts from its creation on. pids: the targets, which may be others at the end; cpus: that they may use."""

    def __init__(self, pids: Iterable[int], cpus: Iterable[int]) -> None:
        self._cpus = sorted(cpus)
        self._clock = self._mhz()
        self._nodes = _memory(pids)
        self._steal, self._all = stolen(kernel.text(f"{PROC}/stat"))
        self._throttles = self._throttled()

    def take(self, pids: Collection[int]) -> dict[str, str]:
        """Keys of meta: clock_mhz (two, as "2400 3100"), steal (a share), throttles, memory_nodes and
        memory_nodes_before ("0:123 1:456"), resident_bytes, huge_bytes. What the host does not tell is absent."""
        found: dict[str, str] = {}
        clock = self._mhz()
        if clock and self._clock:
            found["clock_mhz"] = f"{self._clock:.0f} {clock:.0f}"
        steal, whole = stolen(kernel.text(f"{PROC}/stat"))
        if whole > self._all:
            found["steal"] = f"{(steal - self._steal) / (whole - self._all):.4f}"
        throttles = self._throttled()
        if throttles is not None and self._throttles is not None:
            found["throttles"] = str(throttles - self._throttles)
        nodes = _memory(pids)
        if nodes and self._nodes:
            found["memory_nodes_before"], found["memory_nodes"] = _told(self._nodes), _told(nodes)
        resident, huge = pages("\n".join(kernel.text(f"{PROC}/{pid}/smaps_rollup") for pid in pids))
        if resident:
            found["resident_bytes"], found["huge_bytes"] = str(resident), str(huge)
        return found

    def _mhz(self) -> float:
        """0: not told."""
        khz = [kernel.text(f"{CPU}/cpu{cpu}/cpufreq/scaling_cur_freq").strip() for cpu in self._cpus]
        told = [int(one) for one in khz if one.isdecimal()]
        return sum(told) / len(told) / 1e3 if told else 0.0

    def _throttled(self) -> int | None:
        counts = [kernel.text(f"{CPU}/cpu{cpu}/thermal_throttle/core_throttle_count").strip() for cpu in self._cpus]
        told = [int(one) for one in counts if one.isdecimal()]
        return sum(told) if told else None


def _memory(pids: Iterable[int]) -> Mapping[int, int]:
    if not re.search("[-,]", kernel.text(NODES)):
        return {}  # one node: nothing to tell
    return on_nodes("\n".join(kernel.text(f"{PROC}/{pid}/numa_maps") for pid in pids))


def stolen(stat: str) -> tuple[int, int]:
    """(steal, all) of /proc/stat, in ticks of all processors."""
    ticks = [int(one) for one in stat.partition("\n")[0].split()[1:9]]
    return (ticks[7] if len(ticks) > 7 else 0), sum(ticks)


def on_nodes(numa_maps: str) -> dict[int, int]:
    """Bytes on each node, of the text of numa_maps."""
    found: Counter[int] = Counter()
    for line in numa_maps.splitlines():
        size = re.search(r"kernelpagesize_kB=(\d+)", line)
        for node, count in re.findall(r" N(\d+)=(\d+)", line):
            found[int(node)] += int(count) * (int(size[1]) << 10 if size else os.sysconf("SC_PAGE_SIZE"))
    return dict(found)


def pages(smaps_rollup: str) -> tuple[int, int]:
    """(resident, of it in huge pages) in bytes; hugetlb's are not in Rss, and are added to both."""
    kb: Counter[str] = Counter()
    for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", smaps_rollup, re.MULTILINE):
        kb[name] += int(value)
    tables = kb["Shared_Hugetlb"] + kb["Private_Hugetlb"]
    return (kb["Rss"] + tables) << 10, sum(kb[name] for name in _HUGE) << 10


def _told(nodes: Mapping[int, int]) -> str:
    return " ".join(f"{node}:{count}" for node, count in sorted(nodes.items()))
