"""The kernel's own counts per thread of a target, over the recording: read from /proc at its start and at its end.

They are exact (nothing is sampled), cost nothing while the target runs, and exist on every machine:

task_clock_ns           time on a processor (schedstat)
run_delay_ns            time runnable without one (schedstat)
voluntary_switches      it went to sleep (status)
involuntary_switches    it was preempted (status)
minor_faults            pages mapped without reading a disk (stat)
major_faults            pages read from disk (stat)
"""

from __future__ import annotations

import os

from flowprof.profiler.machine import kernel

NAMES = (
    "task_clock_ns", "run_delay_ns", "voluntary_switches", "involuntary_switches", "minor_faults", "major_faults",
)  # fmt: skip
Counts = dict[int, dict[str, int]]


class ThreadCounters:
    """Counts of one process's threads from its creation on; a thread that starts later counts from its own start."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.names: dict[int, str] = {}  # thread → its name when it was looked at last
        self._before = self._last = self._read()

    def look(self) -> None:
        """Read now: a process that ends takes its counts with it."""
        self._last = {**self._last, **self._read()}

    def columns(self) -> dict[str, list[object]]:
        """Table `counter`, as of the last look."""
        rows = [
            (self._pid, tid, name, counts[name] - self._before.get(tid, {}).get(name, 0))
            for tid, counts in self._last.items()
            for name in NAMES
            if name in counts
        ]
        return {name: [row[i] for row in rows] for i, name in enumerate(("pid", "tid", "name", "value"))}

    def _read(self) -> Counts:
        found: Counts = {}
        try:
            tids = [int(name) for name in os.listdir(f"/proc/{self._pid}/task")]
        except OSError:
            return found
        for tid in tids:
            folder = f"/proc/{self._pid}/task/{tid}"
            stat = kernel.text(f"{folder}/stat").rpartition(")")[2].split()
            status = dict(line.split(":", 1) for line in kernel.text(f"{folder}/status").splitlines() if ":" in line)
            schedstat = kernel.text(f"{folder}/schedstat").split()
            if len(stat) < 10:
                continue
            counts = {"minor_faults": int(stat[7]), "major_faults": int(stat[9])}
            if len(schedstat) >= 2:  # absent where the kernel was built without it
                counts |= {"task_clock_ns": int(schedstat[0]), "run_delay_ns": int(schedstat[1])}
            if "nonvoluntary_ctxt_switches" in status:
                counts["voluntary_switches"] = int(status["voluntary_ctxt_switches"])
                counts["involuntary_switches"] = int(status["nonvoluntary_ctxt_switches"])
            self.names[tid] = status.get("Name", "").strip()
            found[tid] = counts
        return found
