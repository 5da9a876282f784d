"""Launches of one process that wait for those of another, from the calls of the host alone. Part of processes.py.

A round is what one thread launches, copies and sets, with the wait that follows; it takes the time inside these calls,
less that in which the thread waited for a processor. Rounds of the same process with the same kernels, grids, bytes and
function to wait are each other's like (processes_beside.py).

Another process has work in flight from a launch until it knows that everything is complete (cuda_streams.py): longer
than the device needs. Until the first call of a window nothing is known of it. A round is beside the other process
while that has, and alone while no other process has, all along.

The device is not observed: two processes may share it by taking turns, by running at once, or wait for the host's side
(the driver's locks, a copy of pageable memory). What is told is how much longer the calls take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.analyzers import cuda_work
from flowprof.profiler.analyzers.cuda_work import Calls
from flowprof.profiler.analyzers.processes_beside import BY_ITS_SIDE, Ints, compare
from flowprof.profiler.sections.processes import Starved
from flowprof.profiler.store import Recording

NO_LAUNCHES = "launches of one process at most were recorded"
LOST = "events were lost: what was in flight is not certain"
LOST_SQL = "SELECT coalesce(sum(events), 0) > 0 FROM loss WHERE place IN ('ring', 'calls')"
WINDOW_SQL = "SELECT start_ns FROM probe_window WHERE level IN ('op', 'thread')"
READY_SQL = "SELECT tid, start_ns, end_ns FROM thread_state WHERE state = 'runnable' AND pid = $pid"
DEVICE = "from the calls on the host: the device itself was not observed"
_MIX = 0x9E3779B97F4A7C15


def starved(recording: Recording) -> tuple[list[Starved], list[str]]:
    """Rows of whose rounds are slower beside whom, and why more is not told."""
    calls = cuda_work.read(recording)
    works = calls.works()
    pids = np.unique(calls.columns["pid"][works]).tolist()
    if len(pids) < 2:
        return [], [NO_LAUNCHES]
    if recording.rows(LOST_SQL)[0][0]:
        return [], [LOST]
    windows = np.array([start for (start,) in recording.rows(WINDOW_SQL)], np.int64)
    flights = {pid: _in_flight(calls, pid, windows) for pid in pids}
    rows, why = [], []
    for pid in pids:
        rounds = _rounds(calls.of(calls.columns["pid"] == pid), recording.columns(READY_SQL, {"pid": pid}))
        for by in pids:
            if by == pid:
                continue
            found = _pair(rounds, flights, pid, by)
            if isinstance(found, str):
                why.append(f"{pid} beside {by}: {found}")
            else:
                rows.append(found)
    return rows, why


def _in_flight(calls: Calls, pid: int, windows: Ints) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """Stretches in which a process had work in flight, and in which that is not known: (start, end) of each."""
    mine = calls.of(calls.columns["pid"] == pid)
    busy: list[tuple[Ints, Ints]] = []
    unknown: list[tuple[int, int]] = []
    for unit in np.unique(mine.columns["unit"]).tolist():
        part = mine.of(mine.columns["unit"] == unit)
        first, last = part.span()
        unknown.append((int(windows[windows <= first].max(initial=0)), first))
        for queue in cuda_work.queues(part).values():
            begin, behind, _, done = queue.runs()
            busy.append((queue.start_ns[begin], done))
            ended = int(behind[-1]) if len(behind) else 0
            if ended < len(queue.start_ns):
                busy.append((queue.start_ns[ended : ended + 1], np.array([max(last, int(queue.end_ns[-1]))])))
    start, end = zip(*busy, strict=True)
    since, until = zip(*unknown, strict=True)
    return (np.concatenate(start), np.concatenate(end)), (np.array(since, np.int64), np.array(until, np.int64))


def _rounds(calls: Calls, ready: Mapping[str, Any]) -> dict[str, Ints]:
    """Rounds of one process: key, start_ns, end_ns, ns."""
    columns, works, waits = calls.columns, calls.works(), calls.is_("synchronize")
    chosen = works | waits
    calls, works, waits = calls.of(chosen), works[chosen], waits[chosen]
    columns, host = calls.columns, calls.host_ns
    line = np.stack([columns["unit"], columns["tid"]])
    fresh = np.concatenate(([True], (np.diff(line) != 0).any(axis=0)))
    begins = np.flatnonzero(fresh | np.concatenate(([False], waits[:-1])))
    last = np.append(begins[1:], len(host)) - 1
    with np.errstate(over="ignore"):
        mixed = (
            columns["kernel_id"].astype(np.uint64) * np.uint64(_MIX)
            ^ columns["grid_id"].astype(np.uint64) * np.uint64(_MIX >> 7)
            ^ columns["bytes"].astype(np.uint64) * np.uint64(_MIX >> 13)
            ^ (columns["api_id"].astype(np.uint64) + np.uint64(1)) * np.uint64(_MIX >> 21)
        )
        key = np.add.reduceat(mixed * (mixed | np.uint64(1)), begins).view(np.int64)
    delayed = np.zeros(len(host), np.int64)
    for tid in np.unique(columns["tid"]).tolist():
        mine, theirs = columns["tid"] == tid, ready["tid"] == tid
        start, end = ready["start_ns"][theirs].astype(np.int64), ready["end_ns"][theirs].astype(np.int64)
        delayed[mine] = intervals.covered(columns["start_ns"][mine], columns["end_ns"][mine], start, end)
    whole = waits[last] & (last > begins)  # a wait for what this thread launched
    return {
        "key": key[whole],
        "start_ns": columns["start_ns"][begins][whole],
        "end_ns": columns["end_ns"][last][whole],
        "ns": np.add.reduceat(host - delayed, begins)[whole],
    }


def _pair(
    rounds: Mapping[str, Ints], flights: Mapping[int, tuple[tuple[Ints, Ints], tuple[Ints, Ints]]], pid: int, by: int
) -> Starved | str:
    start, end = rounds["start_ns"], rounds["end_ns"]
    own, doubtful = (intervals.covered(start, end, *stretches) for stretches in flights[by])
    others = np.zeros(len(start), np.int64)
    for third in flights.keys() - {pid, by}:
        for stretches in flights[third]:
            others += intervals.covered(start, end, *stretches)
    beside = (own >= BY_ITS_SIDE * (end - start)) & (others == 0)
    alone = (own == 0) & (doubtful == 0) & (others == 0)
    kept = beside | alone
    found = compare(
        rounds["key"][kept], np.flatnonzero(kept), start[kept], rounds["ns"][kept].astype(float), beside[kept]
    )
    if isinstance(found, str):
        return found
    took, share = int(rounds["ns"][beside].sum()), max(0.0, 1 - 1 / found.ratio)
    return Starved(
        pid, by, "GPU", round(took * share), share, int(beside.sum()), slower=found,
        evidence=(f"{len(start) - int(kept.sum())} of {len(start)} rounds were neither beside it nor alone", DEVICE),
    )  # fmt: skip
