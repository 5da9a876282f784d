"""Where a row leads in the graph view: the operators in which its thread spent the time that the row tells.

Taken from the verdicts' threads, so from thread windows: of a wait that none of them saw nothing is known, and the row
leads nowhere. Where there are no thread windows at all, causes lead to the operators that were mostly held up for that
reason, whichever thread of the pool was away. Requests and stacks have operators of their own; growth with the context
leads to what reads the cache, memory that another process takes to the products.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable

from flowprof.profiler.sections.blocked import BlockedRow, OpenWait
from flowprof.profiler.sections.processes import Starved
from flowprof.profiler.sections.requests import RequestRow
from flowprof.profiler.sections.threads import ThreadRow
from flowprof.profiler.sections.verdicts import OperatorThread, Verdict, VerdictTable
from flowprof.profiler.sections.waits import WaitCause, WaitRoot, WaitRow
from flowprof.viewers.quantity import clean

MOST = 5  # groups of operators that a row leads to
COVERED = 0.9  # of the time: groups beyond that are left out
PRODUCTS = ("MUL_MAT", "MUL_MAT_ID")  # that read weights

Part = Callable[[OperatorThread], int]


def barrier(thread: OperatorThread) -> int:
    """Waiting for other threads, ns."""
    return thread.barrier_spin_ns + (thread.barrier_blocked_ns or 0)


def waited(thread: OperatorThread) -> int:
    """All but own work, ns."""
    return thread.wall_ns - thread.work_ns


PARTS: dict[str, Part] = {  # by a cause's state and by a root's wait
    "runnable": lambda thread: thread.runnable_ns or 0,
    "fault": lambda thread: thread.fault_ns or 0,
    "disk": lambda thread: thread.blocked_ns or 0,
    "stopped": lambda thread: thread.blocked_ns or 0,
    "sleeping": lambda thread: (thread.barrier_blocked_ns or 0) + (thread.blocked_ns or 0),
    "barrier": barrier,
}


class Leads:
    """The operators of every thread; rows of the page are looked up in it."""

    def __init__(self, table: VerdictTable | None) -> None:
        self._found: dict[tuple[str, int, int], list[tuple[Verdict, OperatorThread]]] = defaultdict(list)
        self._rows = table.rows if table else ()
        for row in self._rows:
            for thread in row.threads:
                self._found[row.phase, thread.pid, thread.ith].append((row, thread))
        self._deep = bool(self._found)

    def __call__(self, row: ThreadRow | WaitRow | WaitCause | WaitRoot) -> str:
        """JSON for js/tables.js: a list of {op, block, tensors}, the most time first; "" when there is none."""
        if isinstance(row, WaitCause | WaitRoot):
            found = self._found.get((row.phase, row.pid, row.ith), [])
            part = PARTS.get(row.state if isinstance(row, WaitCause) else row.wait, waited)
        else:
            whole = self._found.get((row.phase, row.pid, row.ith), [])
            found = [(verdict, thread) for verdict, thread in whole if thread.driver_tid == row.driver_tid]
            part = waited if isinstance(row, WaitRow) else barrier
        times = [(part(thread), verdict) for verdict, thread in found]
        if isinstance(row, WaitCause) and not self._deep:
            times = [
                (round((one.wait_share or 0.0) * one.measured_ns), one) for one in self._rows
                if (one.phase, one.wait_state) == (row.phase, row.state)
            ]  # fmt: skip
        return _nodes((one.op, one.block, one.tensors) for one in _most(sorted(times, key=lambda one: -one[0])))

    def growth(self) -> str:
        """JSON as above: what reads the KV cache in decode, which is what grows with the context."""
        return _nodes((row.op, row.block, row.tensors) for row in self._rows if row.phase == "decode" and row.context)

    def starved(self, row: Starved) -> tuple[str, str]:
        """The phase and JSON as above: where the process's threads lacked a processor; of memory its phase's products;
        of a GPU nothing."""
        if row.means == "memory":
            return row.phase, _nodes(
                (one.op, one.block, one.tensors) for one in self._rows
                if one.phase == row.phase and one.op in PRODUCTS and any(its.pid == row.pid for its in one.threads)
            )  # fmt: skip
        return self.lacking(row.pid) if row.means == "processor" else ("", "")

    def lacking(self, pid: int, ith: int | None = None) -> tuple[str, str]:
        """Likewise, where threads of a process, or that one of its pool, lacked a processor: of the phase with most."""
        times: dict[str, list[tuple[int, Verdict]]] = defaultdict(list)
        for one in self._rows:
            its = [thread for thread in one.threads if thread.pid == pid and ith in (None, thread.ith)]
            times[one.phase].append((sum(thread.runnable_ns or 0 for thread in its), one))
        phase = max(times, key=lambda name: sum(ns for ns, _ in times[name]), default="")
        most = _most(sorted(times[phase], key=lambda pair: -pair[0]))
        return phase, _nodes((one.op, one.block, one.tensors) for one in most)


def of_operators(row: RequestRow | BlockedRow | OpenWait) -> tuple[str, str]:
    """Of a row that has operators itself: the phase of most of their time, and the operators with most of that."""
    times: dict[str, float] = defaultdict(float)
    for one in row.operators:
        times[one.phase] += one.ns
    phase = max(times, key=lambda name: times[name], default="")
    return phase, _nodes((one.op, one.block, ()) for one in row.operators if one.phase == phase)


def _most(times: list[tuple[int, Verdict]]) -> list[Verdict]:
    """The groups that make up COVERED of the time, at most MOST."""
    limit, reached, chosen = COVERED * sum(ns for ns, _ in times), 0, []
    for ns, verdict in times[:MOST]:
        if ns <= 0 or reached >= limit:
            break
        reached += ns
        chosen.append(verdict)
    return chosen


def _nodes(operators: Iterable[tuple[str, str, tuple[str, ...]]]) -> str:
    nodes = [
        {"op": clean(op, 60), "block": clean(block, 30), "tensors": [clean(name, 80) for name in tensors]}
        for op, block, tensors in operators
    ]
    return json.dumps(nodes) if nodes else ""
