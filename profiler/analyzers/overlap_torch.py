"""Missed overlap of PyTorch on processors: which operators ran beside which, and what was exposed.

Operators are recorded with shapes, not with the memory that they read and write. So of operators on one thread, or of
threads that take turns, nobody can say that they are independent, and nothing is advised; how much of the copies and
collectives no arithmetic ran beside is told all the same. A collective lasts while it is asked for, while a thread of
Gloo's runs it (and there waits for the other processes), and while a thread waits for it. A data loader's next batch
needs nothing of the step that computes meanwhile, as far as anybody knows: that is *free*, and of low confidence. Kinds
of operators go by their names, data loading by how torch names its threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.analyzers.contract import Need
from flowprof.profiler.findings import in_ms
from flowprof.profiler.intervals import Ints
from flowprof.profiler.sections.overlap import HostExposure, HostKind, HostTime, Overlap
from flowprof.profiler.store import Recording, read_sql

LEAST = 0.01  # of the observed time
KINDS: tuple[HostKind, ...] = ("operators", "copies", "collectives", "data loading")  # as the query numbers them
OPERATORS, COPIES, COLLECTIVES, LOADING, UNDER_WAY = range(len(KINDS) + 1)  # the last: collectives, behind their call
CALLS = Need("SELECT count(*) > 0 FROM (SELECT 1 FROM api_call WHERE kind = 'operator' LIMIT 1)", "no operators")
WINDOW_SQL = "SELECT start_ns, end_ns FROM probe_window WHERE level IN ('op', 'thread') AND end_ns IS NOT NULL"
UNKNOWN_USE = {COPIES: "what reads the copy is not recorded", COLLECTIVES: "what needs their result is not recorded"}
Stretches = tuple[Ints, Ints]
Found = tuple[tuple[HostExposure, ...], tuple[Overlap, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Operators:
    """Of a process with its loaders: what its threads were in, by kind, none of it twice; arithmetic by thread."""

    pid: int
    span_ns: int
    idle_ns: int  # no thread was in an operator
    kinds: tuple[Stretches, ...]  # by KINDS; unions over threads
    threads: int  # with arithmetic
    beside_ns: int  # two or more of them were in operators
    under_way: bool  # collectives were seen behind their calls, too


def overlaps(recording: Recording) -> Found:
    """Exposed time by process; what could overlap; what is not advised, and why. Of a recording that meets CALLS."""
    exposures: list[HostExposure] = []
    found: list[Overlap] = []
    refused: list[str] = []
    observed = processes(recording)
    for one in observed:
        start, end = one.kinds[OPERATORS]
        exposed = [intervals.length(*intervals.without(*kind, start, end)) for kind in one.kinds]
        times = [HostTime(KINDS[n], intervals.length(*one.kinds[n]), exposed[n]) for n in range(len(KINDS))]
        shown = tuple(time for time in times if time.busy_ns)
        exposures.append(HostExposure(one.pid, one.span_ns, "no operator", one.idle_ns, shown))
        found += _loading(one, exposed[LOADING])
        whose = f"process {one.pid}: " if len(observed) > 1 else ""
        refused += [whose + why for why in _refused(one, exposed)]
    return tuple(exposures), tuple(found), tuple(refused)


def processes(recording: Recording) -> list[Operators]:
    """Those that call operators, the busiest first."""
    columns = recording.columns(read_sql("overlap_operators.sql"))
    windows = recording.columns(WINDOW_SQL)
    observed = np.asarray(windows["start_ns"], np.int64), np.asarray(windows["end_ns"], np.int64)
    family, kind = np.asarray(columns["family"], np.int64), np.asarray(columns["kind"], np.int64)
    start, end = (np.asarray(columns[name], np.int64) for name in ("start_ns", "end_ns"))
    line = np.stack([np.asarray(columns[name], np.int64) for name in ("pid", "tid")])
    threads = np.split(np.arange(len(start)), np.flatnonzero((np.diff(line) != 0).any(axis=0)) + 1)
    found = []
    for one in np.unique(family).tolist():
        mine = [rows for rows in threads if family[rows[0]] == one]
        first, last = (
            int(edge) for edge in (min(start[rows[0]] for rows in mine), max(end[rows].max() for rows in mine))
        )
        parts = list(zip(*(_thread(start[rows], end[rows], kind[rows]) for rows in mine), strict=True))
        arithmetic = [stretches for stretches in parts[OPERATORS] if len(stretches[0])]
        unions = [intervals.union(*_joined(part)) for part in parts]
        span = intervals.common(*observed, np.array([first]), np.array([last])) if len(observed[0]) else last - first
        busy = intervals.length(*_joined(unions))
        found.append(
            Operators(
                one,
                span,
                max(0, span - busy),
                tuple(unions[: len(KINDS)]),
                len(arithmetic),
                intervals.several(*_joined(arithmetic)),
                len(unions[UNDER_WAY][0]) > 0,
            )
        )
    return sorted(found, key=lambda one: -one.span_ns + one.idle_ns)


def _thread(start: Ints, end: Ints, kind: Ints) -> list[Stretches]:
    """One thread's stretches by kind: within a copy or a collective it is in nothing else."""

    def of(*kinds: int) -> Stretches:
        mine = np.isin(kind, kinds)
        return intervals.union(start[mine], end[mine])

    moved = of(COPIES), of(COLLECTIVES, UNDER_WAY)
    arithmetic = intervals.without(start[kind == OPERATORS], end[kind == OPERATORS], *_joined(moved))
    return [arithmetic, *moved, of(LOADING), of(UNDER_WAY)]


def _joined(parts: Sequence[Stretches]) -> Stretches:
    nothing = np.empty(0, np.int64)
    return (
        np.concatenate([nothing, *(start for start, _ in parts)]), np.concatenate([nothing, *(end for _, end in parts)])
    )  # fmt: skip


def _loading(one: Operators, exposed_ns: int) -> list[Overlap]:
    room = intervals.length(*intervals.without(*one.kinds[OPERATORS], *one.kinds[LOADING]))
    gain = min(exposed_ns, room)
    if gain < LEAST * one.span_ns or not gain:
        return []
    return [
        Overlap(
            kind="free", what="data loading beside the step's operators", culprit="the data loader", device=None,
            count=len(one.kinds[LOADING][0]), exposed_ns=exposed_ns, room_ns=room, ideal_ns=gain, aware_ns=gain,
            split_ns=0, net_ns=gain, share=gain / one.span_ns, base_ns=one.span_ns,
            reason="the next batch needs nothing of the step before, and its operators ran while nothing computed",
            confidence="low", priced=False,
            evidence=(
                f"process {one.pid}: data loading's operators took {in_ms(intervals.length(*one.kinds[LOADING]))}, "
                f"{in_ms(exposed_ns)} of it with no arithmetic beside it",
                f"for {in_ms(room)} arithmetic ran, and no data was loaded",
                "what a loader does outside of operators (files, decoding) is not recorded",
            ),
        )
    ]  # fmt: skip


def _refused(one: Operators, exposed: list[int]) -> list[str]:
    arithmetic = intervals.length(*one.kinds[OPERATORS])
    turns = ""
    if one.threads > 1:
        turns = (
            f"{one.threads} threads' operators ran side by side for {in_ms(one.beside_ns)} of {in_ms(arithmetic)}: "
            "whether those that took turns need each other (a tensor, a lock, a future) is not recorded"
        )
    elif one.threads:
        turns = "operators of one thread: each may need the one before it; what they read and write is not recorded"
    unseen = {COPIES: "", COLLECTIVES: "" if one.under_way else ", and most of them go on behind the call"}
    return [
        *([turns] if turns else []),
        *(
            f"{KINDS[number]}: {in_ms(exposed[number])} with no arithmetic beside it; {why}{unseen[number]}"
            for number, why in UNKNOWN_USE.items()
            if exposed[number] >= LEAST * one.span_ns and exposed[number]
        ),
    ]
