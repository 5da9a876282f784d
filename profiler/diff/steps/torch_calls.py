"""The operators that a torch program calls, thread by thread, and the iterations that they make up.

What is taken as a step, in this order (`Cut.what` says which):

* annotations that a profiler or an engine makes for each one (STEP_NAMES), where there are MIN_ANNOTATED or more;
* the repeating sequence of outermost operators on the busiest thread (iterations.py); irregular ones at the beginning
  are warm-up and left out;
* SLICE outermost operators on that thread; times are per operator then.

Time between iterations counts up to the longest pause (as in diff_steps.sql): more than that is waiting for work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.diff.steps import iterations
from flowprof.profiler.diff.steps.steps import Floats, Ints
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.torch import costs as torch_costs
from flowprof.profiler.torch.costs import Arg
from numpy.typing import NDArray

STEP_NAMES = ("ProfilerStep", "step", "execute_")  # torch.profiler; SGLang and others; vLLM
MIN_ANNOTATED = 6
SLICE = 100
DEPTH = 64  # operators do not nest deeper
PAUSE_NS = 100e6
ANNOTATION_SQL = """
SELECT coalesce(pid, -1) AS pid, coalesce(tid, -1) AS tid, start_ns, end_ns FROM api_call
WHERE kind = 'annotation' AND end_ns IS NOT NULL AND starts_with(lower(name), lower($begin)) ORDER BY pid, tid, start_ns
"""
WINDOW_SQL = "SELECT start_ns, end_ns, level IN ('op', 'thread') FROM probe_window ORDER BY start_ns"
COMM_SQL = "SELECT pid, tid, comm FROM thread"


@dataclass(frozen=True, slots=True)
class Calls:
    """By process, thread and start. Arrays (n,); times ns."""

    call_id: Ints
    parent: Ints  # row of the call around it, -1: none
    outer: Ints  # row of the innermost call around it that returned, -1: none
    line: Ints  # which of `lines`
    what: Ints  # which of `names` and `args`
    start: Ints
    end: Ints  # of what did not return its start
    own: Floats  # without what was called inside; 0 where it did not return
    backward: NDArray[np.bool_]  # called by the engine of backward passes
    names: tuple[str, ...]
    args: tuple[tuple[Arg, ...], ...]
    lines: tuple[tuple[int, int, str], ...]  # process, thread, its name


@dataclass(frozen=True, slots=True)
class Cut:
    """Steps in the order of time, (n,). A step's calls end at end_ns; next_ns: the next one begins, or as end_ns."""

    line: int  # of Calls; -1: none
    start_ns: Ints
    end_ns: Ints
    next_ns: Ints
    tokens: Ints  # what times are divided by: 1, or the operators of a slice
    per: str  # step, operator
    what: str  # one sentence: what was taken as a step

    def step_of(self, at_ns: Ints, until: Ints) -> Ints:
        """Which step a moment is in, -1: none. until: end_ns or next_ns."""
        step = np.searchsorted(self.start_ns, at_ns, "right") - 1
        return np.where((step >= 0) & (at_ns < until[np.maximum(step, 0)]), step, -1)


@once
def read(recording: Recording) -> Calls:
    found = recording.columns(read_sql("diff_torch_calls.sql"))
    whats = recording.rows(read_sql("diff_torch_whats.sql"))
    start, end = np.asarray(found["start_ns"], np.int64), np.asarray(found["end_ns"], np.int64)
    call_id, parent_id = np.asarray(found["call_id"], np.int64), np.asarray(found["parent_id"], np.int64)
    parent = rows_of(call_id, parent_id)
    returned = end >= 0
    outer = parent.copy()
    for _ in range(DEPTH):
        climbing = np.flatnonzero((outer >= 0) & ~returned[outer])
        if not len(climbing):
            break
        outer[climbing] = parent[outer[climbing]]
    outer[(outer >= 0) & ~returned[outer]] = -1
    ns = np.where(returned, end - start, 0).astype(float)
    inside = np.bincount(outer[returned & (outer >= 0)], ns[returned & (outer >= 0)], len(start))
    comms = {(pid, tid): str(comm or "") for pid, tid, comm in recording.rows(COMM_SQL)}
    pid, tid = np.asarray(found["pid"], np.int64), np.asarray(found["tid"], np.int64)
    begins = np.append(True, (np.diff(pid) != 0) | (np.diff(tid) != 0))[: len(pid)]  # rows are in their order
    lines = zip(pid[begins].tolist(), tid[begins].tolist(), strict=True)
    return Calls(
        call_id=call_id, parent=parent, outer=outer, line=np.cumsum(begins, dtype=np.int64) - 1,
        what=np.asarray(found["what_id"], np.int64), start=start, end=np.where(returned, end, start),
        own=np.where(returned, ns - inside, 0.0), backward=np.asarray(found["backward"], bool),
        names=tuple(str(name) for name, *_ in whats),
        args=tuple(torch_costs.arguments(*texts) for _, *texts in whats),
        lines=tuple((*thread, comms.get(thread, "")) for thread in lines),
    )  # fmt: skip


@once
def cut(recording: Recording) -> Cut | None:
    """None: there are no operators, or fewer than two steps of them."""
    calls = read(recording)
    if not len(calls.start):
        return None
    annotated = _annotated(recording, calls)
    found = annotated if annotated is not None else _repeated(recording, calls)
    return found if len(found.start_ns) >= 2 else None


def stretches(recording: Recording) -> tuple[Ints, Ints] | None:
    """Starts and ends of stretches in which every operator was recorded; None: all the time."""
    merged: list[list[int]] = []
    follows, any_window = False, False
    for start, end, deep in recording.rows(WINDOW_SQL):
        any_window = True
        if deep and end is not None:
            if follows:
                merged[-1][1] = end
            else:
                merged.append([start, end])
        follows = bool(deep)
    if not any_window:
        return None
    whole = np.array(merged, np.int64).reshape(-1, 2)
    return whole[:, 0], whole[:, 1]


def in_stretch(recording: Recording, start: Ints, end: Ints) -> Ints:
    """The stretch (from 1) that a time lies in wholly; 0: none."""
    found = stretches(recording)
    if found is None:
        return np.ones(len(start), np.int64)
    begin, stop = found
    at = np.searchsorted(begin, start, "right")
    if not len(begin):
        return np.zeros(len(start), np.int64)
    return np.where((at > 0) & (end <= stop[np.maximum(at, 1) - 1]), at, 0)


def following(start: Ints, end: Ints, after: Ints) -> Ints:
    """When the next step begins, `after`; a step's own end where there is none (-1) or a pause comes first."""
    pause = max(PAUSE_NS, 4 * float(np.median(end - start))) if len(start) else PAUSE_NS
    return np.where((after >= end) & (after - end <= pause), after, end)


def rows_of(call_id: Ints, wanted: Ints) -> Ints:
    """Row of each id, -1: none has it."""
    if not len(call_id):
        return np.zeros(0, np.int64)
    order = np.argsort(call_id, kind="stable")
    at = order[np.minimum(np.searchsorted(call_id[order], wanted), len(call_id) - 1)]
    return np.where((call_id[at] == wanted) & (wanted >= 0), at, -1)


def _annotated(recording: Recording, calls: Calls) -> Cut | None:
    for begin in STEP_NAMES:
        rows = recording.columns(ANNOTATION_SQL, {"begin": begin})
        thread = np.stack([np.asarray(rows["pid"], np.int64), np.asarray(rows["tid"], np.int64)], axis=1)
        if len(thread) < MIN_ANNOTATED:
            continue
        lines, which, counts = np.unique(thread, axis=0, return_inverse=True, return_counts=True)
        pid, tid = lines[int(counts.argmax())].tolist()
        line = next((at for at, one in enumerate(calls.lines) if one[:2] == (pid, tid)), -1)
        mine = which.reshape(-1) == int(counts.argmax())
        start, end = (np.asarray(rows[name], np.int64)[mine] for name in ("start_ns", "end_ns"))
        outermost = start >= np.append(start[:1], np.maximum.accumulate(end)[:-1])
        start, end = start[outermost], end[outermost]
        if line < 0 or len(start) < MIN_ANNOTATED:
            continue
        what = f"one annotation {begin}…: {len(start)} of them"
        after = following(start, end, np.append(start[1:], -1))
        return Cut(line, start, end, after, np.ones(len(start), np.int64), "step", what)
    return None


def _repeated(recording: Recording, calls: Calls) -> Cut:
    outermost = calls.outer < 0
    busy = np.bincount(calls.line[outermost], (calls.end - calls.start)[outermost], len(calls.lines))
    line = int(busy.argmax())
    mine = np.flatnonzero(outermost & (calls.line == line))
    stretch = in_stretch(recording, calls.start[mine], calls.end[mine])
    mine, stretch = mine[stretch > 0], stretch[stretch > 0]
    start, end = calls.start[mine], calls.end[mine]
    numbers: dict[str, int] = {}
    by_name = np.array([numbers.setdefault(name, len(numbers)) for name in calls.names], np.int64)
    found = iterations.find((by_name[calls.what[mine]], calls.what[mine]), stretch, start, end)
    if found is None:
        return _sliced(line, start, end, stretch)
    warm_up = int(found.alike.argmax())
    first, last = found.first[warm_up:], found.last[warm_up:]
    begins, ends = start[first], end[last - 1]
    after = following(begins, ends, start[last])
    what = (
        f"one repetition of about {found.calls} outermost operators on thread {calls.lines[line][1]}: {len(first)} of "
        f"them, {int((~found.alike[warm_up:]).sum())} of another length"
    )
    if warm_up:
        what += f"; {warm_up} before them were taken as warm-up"
    return Cut(line, begins, ends, after, np.ones(len(first), np.int64), "step", what)


def _sliced(line: int, start: Ints, end: Ints, stretch: Ints) -> Cut:
    """Neighbouring calls of one stretch, SLICE of them; fewer at its end are left out."""
    place = np.arange(len(start)) - np.searchsorted(stretch, stretch)
    first = np.flatnonzero(place % SLICE == 0)
    first = first[first + SLICE <= len(start)]
    first = first[stretch[first] == stretch[first + SLICE - 1]]
    begins, ends = start[first], end[first + SLICE - 1]
    follows = np.append(stretch[1:] == stretch[:-1], False)[first + SLICE - 1]
    after = following(begins, ends, np.where(follows, np.append(start[1:], -1)[first + SLICE - 1], -1))
    what = f"{SLICE} outermost operators, for no sequence repeats: times are per operator"
    return Cut(line, begins, ends, after, np.full(len(first), SLICE, np.int64), "operator", what)
