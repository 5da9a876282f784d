"""What pool threads waited for in the end: every wait passed on to what its waker waited for. Part of waits.py.

A thread that sleeps is woken by another one; a thread at a barrier waits for the last one to come. While they waited,
that one may have waited itself: for a processor, for the disk, for a third thread (root_causes.py). Only threads of the
target are known from within; what a thread of another program waited for is `outside`.
"""

from __future__ import annotations

import numpy as np
from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.root_causes import Stretches, root_causes
from flowprof.profiler.sections.waits import WaitRoot
from flowprof.profiler.store import Recording, read_sql

LEAST_NS = 50_000  # a barrier's own cost is far less, a time slice far more
STRETCHES_SQL = """
SELECT tid, start_ns, end_ns, state, coalesce(by_tid, 0) AS by_tid FROM absence WHERE end_ns > start_ns
"""
NAMES_SQL = """
SELECT by_tid, any_value(by_comm) FROM absence WHERE by_comm IS NOT NULL GROUP BY by_tid
UNION ALL SELECT tid, any_value(comm) FROM thread WHERE comm <> '' GROUP BY tid
"""
POOL_SQL = "SELECT pid, tid, min(ith) FROM thread WHERE ith IS NOT NULL GROUP BY pid, tid"


@once
def wait_roots(recording: Recording) -> tuple[tuple[WaitRoot, ...], tuple[tuple[str, str, int], ...]]:
    """The causes, largest first; and ns by phase and kind of wait, to which those of a kind add up."""
    rows = recording.columns(read_sql("root_waits.sql"), {"least": LEAST_NS})
    if not len(rows["tid"]):
        return (), ()
    # A wait at a barrier is ended by a thread, too: both are passed on the same way.
    tid, start, end, by_tid = (np.asarray(rows[name], np.int64) for name in ("tid", "start_ns", "end_ns", "by_tid"))
    waits = Stretches(tid, start, end, np.full(len(tid), "sleeping"), by_tid)
    own = np.array([row[0] for row in recording.rows("SELECT DISTINCT tid FROM thread")], np.int64)
    found = root_causes(waits, _stretches(recording), own)
    kinds = [f"{phase}\n{wait}" for phase, wait in zip(rows["phase"], rows["wait"], strict=True)]
    labels, label = np.unique(kinds, return_inverse=True)
    causes, cause = np.unique(found.cause, return_inverse=True)
    pids, ith = np.asarray(rows["pid"], np.int64), np.asarray(rows["ith"], np.int64)
    columns = np.stack(
        [label[found.wait], pids[found.wait], ith[found.wait], waits.by_tid[found.wait], cause, found.by_tid], axis=1
    )
    groups, where = np.unique(columns, axis=0, return_inverse=True)
    ns = np.zeros(len(groups), np.int64)
    np.add.at(ns, where.ravel(), found.ns)
    names = dict(recording.rows(NAMES_SQL))
    pool = {(pid, tid): place for pid, tid, place in recording.rows(POOL_SQL)}
    names[_recorder(recording)] = "flowprof"
    roots = []
    for (kind, pid, waited, direct, why, by), total in zip(groups.tolist(), ns.tolist(), strict=True):
        phase, wait = str(labels[kind]).split("\n")
        roots.append(
            WaitRoot(
                phase=phase, wait=wait, pid=pid, ith=waited, direct_tid=direct, direct_comm=names.get(direct, ""),
                direct_ith=pool.get((pid, direct)), cause=str(causes[why]), by_tid=by, by_comm=names.get(by, ""),
                by_ith=pool.get((pid, by)), total_ns=total,
            )
        )  # fmt: skip
    roots.sort(key=lambda root: (-root.total_ns, root.pid, root.ith, root.by_tid))
    sums = np.zeros(len(labels), np.int64)
    np.add.at(sums, label, waits.end_ns - waits.start_ns)
    totals = []
    for kind, total in zip(labels.tolist(), sums.tolist(), strict=True):
        phase, wait = kind.split("\n")
        totals.append((phase, wait, total))
    return tuple(roots), tuple(totals)


def _recorder(recording: Recording) -> int:
    text = recording.meta().get("recorder_pid", "")
    return int(text) if text.isdecimal() else -1


def _stretches(recording: Recording) -> Stretches:
    away = recording.columns(STRETCHES_SQL)
    tid, start, end, by = (np.asarray(away[name], np.int64) for name in ("tid", "start_ns", "end_ns", "by_tid"))
    return Stretches(tid, start, end, np.asarray(away["state"], np.str_), by)
