"""Counters per operator: perf events of every processor that probes/bpf/counters.bpf.c reads at an operator's ends.

task_clock_ns      time on a processor (kept by the program itself, as is the next one)
context_switches   how often the thread left its processor
page_faults        perf's software event: there on every machine
cycles, instructions, stalled_cycles   of the processor, in user mode only: what the probes take is not counted
llc_misses         perf's "cache-misses": the last-level cache's on Intel; on AMD's Zen those of the L2
llc_prefetches     AMD's Zen only: lines that the L2's prefetcher had to take from memory

Processors differ in what "cache-misses" leaves out (lines that a prefetcher fetched, as a rule). So a stream of a known
size is read while it counts (`stream_share`): what it saw of that is what it can be trusted with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.kernel_side.attach import open_perf_event
from flowprof.profiler.kernel_side.bpf import Module
from flowprof.profiler.kernel_side.tracepoints import online
from flowprof.profiler.machine import kernel, processor
from flowprof.profiler.record.count_rows import KINDS

_HARDWARE, _SOFTWARE, _RAW = 0, 1, 4  # perf event types
_PINNED, _NO_KERNEL, _NO_HYPERVISOR = 1 << 2, 1 << 5, 1 << 6  # flags of struct perf_event_attr
_ZEN = range(0x17, 0x20)  # families of AMD's processors with these events: Linux, pmu-events/arch/x86/amdzen*/
_MAX_STREAM = 256 << 20
_TIMES_CACHE = 4  # a stream of so many last-level caches comes from memory
_PASSES = 4
LINE_BYTES = 64  # where the machine does not say

FROM_MEMORY = ("llc_misses", "llc_prefetches")
KINDS_OF = {"software": 1, "all": len(KINDS)}  # how many of KINDS, from the first on


@dataclass(frozen=True, slots=True)
class _Event:
    type: int
    config: int


def _events(cpuinfo: str) -> dict[str, _Event]:
    """The perf event of every kind that this processor may have."""
    found = {
        "page_faults": _Event(_SOFTWARE, 2),
        "cycles": _Event(_HARDWARE, 0),
        "instructions": _Event(_HARDWARE, 1),
        "llc_misses": _Event(_HARDWARE, 3),
        "stalled_cycles": _Event(_HARDWARE, 8),  # in the back end
    }
    family = re.search(r"^cpu family\s*:\s*(\d+)", cpuinfo, re.MULTILINE)
    if "AuthenticAMD" in cpuinfo and family and int(family[1]) in _ZEN:
        found["llc_prefetches"] = _Event(_RAW, 0xFF72)  # l2_pf_miss_l2_l3
    return found


class OperatorCounters:
    """The events, open on every processor and known to the programs of `module`. `close()` ends them."""

    def __init__(self, module: Module, choice: str) -> None:
        """choice: `software`, or `all` that this machine has. What it lacks is in `missing`, with the reason."""
        self._fds: list[int] = []
        self.missing: dict[str, str] = {}
        self._module = module
        events = _events(kernel.text("/proc/cpuinfo"))
        self._zen = "llc_prefetches" in events
        memory = [events[name] for name in FROM_MEMORY if name in events and choice == "all"]
        self._stream_share = _stream_share(memory)  # first: a processor has few counters
        for number, name in enumerate(KINDS):
            event = events.get(name)
            if number >= KINDS_OF[choice]:
                self.missing[name] = "not asked for"
            elif event is None:
                self.missing[name] = "not known for this processor"
            elif why := self._open(number, event):
                self.missing[name] = why

    def _open(self, number: int, event: _Event) -> str:
        """Returns why not; "" when it is open on every processor."""
        fds: list[int] = []
        try:
            for cpu in online():
                fds.append(open_perf_event(event.type, event.config, 0, -1, cpu, flags=_flags(event)))
                if not os.read(fds[-1], 8):  # pinned, and there is no room for it
                    raise OSError(0, "all of this processor's counters are in use")
                self._module.set_event("counter_events", number * self._module.cpus + cpu, fds[-1])
        except OSError as error:
            for fd in fds:
                os.close(fd)
            return "this machine does not count it" if error.errno in (2, 95) else error.strerror or "refused"
        self._fds += fds
        return ""

    def present(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns without those of kinds that are missing."""
        return {name: values for name, values in columns.items() if name not in self.missing}

    def facts(self) -> dict[str, object]:
        """For the recording's meta table."""
        share = self._stream_share
        return {
            "counters": "yes",
            "counters_missing": "; ".join(f"{name}: {why}" for name, why in self.missing.items()),
            "counter_line_bytes": _line_bytes(),
            "counter_misses": "l2" if self._zen else "llc",
            "counter_stream_share": None if share is None else f"{share:.4f}",
        }

    @property
    def spoiled(self) -> int:
        """Operators whose counters were thrown away: a switch of threads was not seen, or more than 32 bits."""
        return self._module.read_counter("counters_spoiled")

    def forget(self) -> None:
        """What threads were at when the last window closed says nothing now."""
        self._module.clear("counted_threads")

    def close(self) -> None:
        """Close the events. Safe to call twice."""
        while self._fds:
            os.close(self._fds.pop())


def _stream_share(events: Sequence[_Event]) -> float | None:
    """Of the lines of a stream that this thread reads from memory, how many the events count. None: not known."""
    size = _TIMES_CACHE * (processor.read().llc_bytes or 0)
    if not events or not 0 < size <= min(_MAX_STREAM, processor.spare_memory_bytes() // 4):
        return None
    stream, fds = np.ones(size // 8), []
    try:
        for event in events:
            fds.append(open_perf_event(event.type, event.config, 0, 0, -1, flags=_flags(event)))
        counts = [sum(map(_count, fds))]
        for _ in range(_PASSES):
            stream.sum()
            counts.append(sum(map(_count, fds)))
        return int(np.diff(counts).max()) * _line_bytes() / size  # the most: part of it may still be in the cache
    except (OSError, ValueError):
        return None
    finally:
        for fd in fds:
            os.close(fd)


def _count(fd: int) -> int:
    """Raises ValueError when the event found no counter."""
    (value,) = np.frombuffer(os.read(fd, 8), np.uint64)
    return int(value)


def _flags(event: _Event) -> int:
    return 0 if event.type == _SOFTWARE else _PINNED | _NO_KERNEL | _NO_HYPERVISOR


def _line_bytes() -> int:
    text = kernel.text("/sys/devices/system/cpu/cpu0/cache/index0/coherency_line_size").strip()
    return int(text) if text.isdigit() and int(text) else LINE_BYTES
