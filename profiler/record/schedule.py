"""Raw events of the scheduler → rows of thread_state and page_fault. Pure numpy, in bulk.

One event tells of one absence of a thread: since when, woken when and by whom, and who had its processor. It becomes
up to two rows: the wait until it was woken (sleeping, disk, stopped), by its waker; and the wait for a processor
(runnable), by whoever ran there. An uninterruptible wait that ends in a major fault is the fault itself: a page of a
mapped file was read, and it is said of which. The kernel reports the fault right after the thread is back.

The scheduler knows threads only. Which process a thread of another program belongs to is asked of /proc when it is
first seen (`other_threads`); one that is gone by then stays a thread.

The recorder's own threads (its main thread, DuckDB's) are all given by the recorder's process id, so that what flowprof
itself took can be told from what others took.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flowprof.profiler.kernel_side import ring
from flowprof.profiler.machine import kernel
from flowprof.profiler.record.mapped_files import MappedFiles
from flowprof.profiler.record.stacks import Stacks
from numpy.typing import NDArray

Events = NDArray[np.void]
Columns = dict[str, NDArray[np.generic]]

FAULT_NS = 1_000_000  # from the thread's return to the kernel's report of its fault, and between a fault's own waits
_UNINTERRUPTIBLE, _STOPPED = 0x02, 0x0C  # bits of the state a thread left in; stopped: also traced
_MAX_OTHERS = 65_536
_MAX_WAITS = 64  # uninterruptible waits of one fault


class Schedule:
    """Decodes one process's scheduler events; keeps the last millisecond for the next call: a fault may follow."""

    def __init__(self, pid: int, names: Callable[[Sequence[int]], Mapping[int, str]], stacks: Stacks) -> None:
        self._pid = pid
        self._names = names  # of tids, as far as known
        self._stacks = stacks
        self._files = MappedFiles(pid)
        self._known: dict[int, str] = {}
        self._processes: dict[int, int] = {}  # thread of another program → its process; 0 unknown
        self._process_names: dict[int, str] = {}
        self._own: set[int] = set()  # thread ids of this process; some have ended
        self._waiting = np.empty(0, ring.EVENT)

    def decode(self, events: Events, final: bool = False) -> tuple[Columns, Columns]:
        """Columns of thread_state and of page_fault. events: kinds OFF_CPU and MAJOR_FAULT, any order."""
        if len(self._waiting):
            events = np.concatenate([self._waiting, events])
        events = events[np.argsort(events["at_ns"], kind="stable")]
        if len(events) and not final:
            late = events["at_ns"] > events["at_ns"][-1] - FAULT_NS
            self._waiting, events = events[late], events[~late]
        else:
            self._waiting = np.empty(0, ring.EVENT)
        events = events[np.argsort(events["tid"], kind="stable")]  # by thread, then by time
        away = events[events["kind"] == ring.OFF_CPU]
        fault = events[events["kind"] == ring.MAJOR_FAULT]
        return self._states(away, _in_fault(events)), {
            "pid": fault["pid"], "tid": fault["tid"], "at_ns": fault["at_ns"],
            "address": fault["a"].view(np.int64), "file": self._files.names(fault["a"]),
        }  # fmt: skip

    def _states(self, away: Events, in_fault: NDArray[np.bool_]) -> Columns:
        out, woken, back = away["b"].view(np.int64), away["c"].view(np.int64), away["at_ns"]
        waker, runner = away["d"].astype(np.uint32).astype(np.int32), (away["d"] >> np.uint64(32)).astype(np.int32)
        left = away["a"] & np.uint64(0xFFFFFFFF)
        blocked = woken > 0
        state = np.select(
            [in_fault, (left & _STOPPED) > 0, (left & _UNINTERRUPTIBLE) > 0], ["fault", "stopped", "disk"], "sleeping"
        )
        waits = _rows(away[blocked], out[blocked], woken[blocked], state[blocked], waker[blocked])
        ready = np.where(blocked, woken, out)
        queued = back > ready
        queues = _rows(away[queued], ready[queued], back[queued], np.full(queued.sum(), "runnable"), runner[queued])
        columns = {name: np.concatenate([waits[name], queues[name]]) for name in waits}
        taken = self._stacks.numbers(away["a"] >> np.uint64(32), away)
        stacks = np.concatenate([taken[blocked], np.zeros(queued.sum(), np.int32)])
        columns["stack_id"] = np.ma.masked_array(stacks, stacks == 0)
        columns["by_comm"] = self._comms(columns["by_tid"])
        self._own.update(int(tid) for tid in os.listdir("/proc/self/task"))
        ours = np.isin(columns["by_tid"], list(self._own))
        columns["by_tid"] = np.where(ours, np.int32(os.getpid()), columns["by_tid"])
        order = np.lexsort((columns["start_ns"], columns["tid"]))
        return {name: values[order] for name, values in columns.items()}

    def other_threads(self) -> dict[str, list[object]]:
        """Columns of other_thread, so far."""
        found = [(tid, pid) for tid, pid in self._processes.items() if pid not in (0, tid, self._pid, os.getpid())]
        return {
            "tid": [tid for tid, _ in found], "pid": [pid for _, pid in found],
            "comm": [self._process_names[pid] for _, pid in found],
        }  # fmt: skip

    def _process_of(self, tid: int) -> int:
        status = kernel.text(f"/proc/{tid}/status")  # threads have their own folder there, though it is not listed
        words = status.partition("\nTgid:")[2].split(maxsplit=1)
        pid = int(words[0]) if words and words[0].isdecimal() else 0
        if pid and pid not in self._process_names:
            self._process_names[pid] = kernel.text(f"/proc/{pid}/comm").rstrip("\n")
        return pid

    def _comms(self, tids: NDArray[np.generic]) -> NDArray[np.generic]:
        distinct, where = np.unique(tids, return_inverse=True)
        self._known.update(self._names([tid for tid in distinct.tolist() if tid]))  # the newest names
        for tid in distinct.tolist():
            if tid and tid not in self._processes and len(self._processes) < _MAX_OTHERS:
                self._processes[tid] = self._process_of(tid)
        names = np.empty(len(distinct), object)
        names[:] = [self._known.get(tid) for tid in distinct.tolist()]
        comms: NDArray[np.generic] = names[where]
        return comms


def _in_fault(events: Events) -> NDArray[np.bool_]:
    """Of every OFF_CPU event in `events` (by thread and time): was it a wait of the major fault that follows?"""
    is_fault = events["kind"] == ring.MAJOR_FAULT
    disk = ~is_fault & ((events["a"] & _UNINTERRUPTIBLE) > 0)
    found = np.zeros(len(events), bool)
    if len(events) > 1:
        same = events["tid"][1:] == events["tid"][:-1]
        next_out = np.where(is_fault, events["at_ns"], events["b"].view(np.int64))[1:]  # a fault, or away again
        soon = same & (next_out - events["at_ns"][:-1] < FAULT_NS)
        for _ in range(_MAX_WAITS):
            follows = np.append(soon & (is_fault | found)[1:], False)
            fresh = disk & follows & ~found
            if not fresh.any():
                break
            found |= fresh
    of_away: NDArray[np.bool_] = found[~is_fault]
    return of_away


def _rows(
    away: Events,
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    state: NDArray[np.generic],
    by: NDArray[np.int32],
) -> Columns:
    return {
        "pid": away["pid"], "tid": away["tid"], "cpu": away["ith"].astype(np.int16), "start_ns": start, "end_ns": end,
        "state": state, "by_tid": by,
    }  # fmt: skip
