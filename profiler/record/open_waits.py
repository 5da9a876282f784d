"""What threads wait for when a recording ends: the kernel's events tell of waits that end, and these have not.

Of a thread that hangs, or has nothing to do all along, no event tells at all. /proc knows where each entered the kernel
and with which stack pointer; the stack is copied as it is. The other registers are not known: where a frame's rule
needs one that no inner frame has kept, unwinding goes on by a search of the stack, and the frame says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flowprof.profiler.binaries.unwind import Registers
from flowprof.profiler.columns import Columns
from flowprof.profiler.errors import FlowprofError
from flowprof.profiler.machine import kernel
from flowprof.profiler.memory import Memory
from flowprof.profiler.record.stacks import Stacks

MAX_THREADS = 1024
_BYTES, _STEP = 8192, 512  # of a stack, as stacks.bpf.c
_STATES = {"S": "sleeping", "D": "disk", "T": "stopped", "t": "stopped"}

Since = Callable[[Sequence[int]], Mapping[int, int]]


def open_waits(pid: int, stacks: Stacks, since: Since) -> Columns:
    """Table `open_wait` of one process, now. since: threads → when they went to wait, as far as that was seen."""
    rows: list[tuple[int, str, int | None]] = []
    memory = Memory(pid)
    for tid in _threads(pid):
        state = _STATES.get(kernel.text(f"/proc/{pid}/task/{tid}/stat").rpartition(")")[2].strip()[:1])
        words = kernel.text(f"/proc/{pid}/task/{tid}/syscall").split()
        if state is None or len(words) < 3:  # it runs, or is gone
            continue
        rows.append((tid, state, _stack(memory, stacks, int(words[-2], 16), int(words[-1], 16))))
    begun = since([tid for tid, _, _ in rows])
    return {
        "pid": [pid] * len(rows), "tid": [tid for tid, _, _ in rows], "state": [state for _, state, _ in rows],
        "since_ns": [begun.get(tid) for tid, _, _ in rows], "stack_id": [stack for _, _, stack in rows],
    }  # fmt: skip


def _threads(pid: int) -> list[int]:
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")))[:MAX_THREADS]
    except OSError:
        return []


def _stack(memory: Memory, stacks: Stacks, sp: int, ip: int) -> int | None:
    """The number of a stack of this thread; None: it cannot be read."""
    at = np.arange(sp, sp + _BYTES, _STEP, dtype=np.uint64) if 0 < sp < 1 << 47 else np.empty(0, np.uint64)
    try:
        rows, readable = memory.read_rows(at, _STEP)
    except FlowprofError:
        return None
    length = int(np.argmin(np.append(readable, False)))  # as much as there is: the stack's last page may end before
    return stacks.add(memory.pid, Registers(ip, sp, 0, 0, 0, 0, 0, 0), rows[:length].tobytes()) if length else None
