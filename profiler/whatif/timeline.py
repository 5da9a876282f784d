"""What if some operators were faster, in a recording of PyTorch's operators or of a GPU: Amdahl's ceiling end to end.

On a GPU, imported: the path that decides how long the work took is a chain of kernels, copies and gaps from its first
slice to its last. Which chain is in no trace. But no two parts of a chain run at once, so at most the union of the
chosen slices is on it, of all devices and streams: that over the span is f, and s times as fast they can save no more
than f · (1 − 1/s) of it. Where slices of two changes run at once, the time counts for the one that saves more. What was
idle stays. A slice is chosen by its kernel's name, or by that of any of the operators around its launch.

On the host: the operators of one thread run one after the other, and their time is part of its time, from its first
operator to its last in each window of the recording. f is the time within operators that are chosen, with what they
call. Where other threads call operators, too, which waits for which is not known, and there is no answer; nor where a
GPU works that nobody watched.

An operator is chosen by its name (aten::mm or mm, `*` and `?` as in file names), a kernel by its own, and by `attn`
what is called attention, or flash. Blocks are ggml's: here there are none.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.analyzers.gpu import COLLECTIVE, GPU, GRAPH, KERNEL, beginning
from flowprof.profiler.analyzers.gpu_kernels import NAME_SQL
from flowprof.profiler.analyzers.torch_operators import CALLS, PROBE_SQL
from flowprof.profiler.errors import NotFoundError, NothingToProfileError, UsageError
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.whatif.change import MAX_FACTOR, Change, refuse_losses
from numpy.typing import NDArray

ATTENTION = ("*attention*", "*flash*", "*fmha*")
DEPTH = 64  # operators do not nest deeper
MIN_CALLS = 5  # of what is chosen
OTHERS = 0.05  # of the busiest thread's time within operators, that others may have
UNKNOWN = 0.10  # of the GPU's kernels, by time, that may have no operator
CALL_SQL = """
SELECT call_id, coalesce(parent_id, -1) AS parent_id, pid, tid, start_ns, end_ns,
       dense_rank() OVER (ORDER BY name) - 1 AS name_id
FROM api_call WHERE kind = 'operator' AND end_ns IS NOT NULL ORDER BY call_id
"""
CALL_NAME_SQL = """
SELECT DISTINCT name FROM api_call WHERE kind = 'operator' AND end_ns IS NOT NULL ORDER BY name
"""
LAUNCH_SQL = "SELECT count(*) > 0 FROM (SELECT 1 FROM api_call WHERE kind IN ('runtime', 'driver') LIMIT 1)"
WINDOW_SQL = "SELECT start_ns, end_ns FROM probe_window WHERE level IN ('op', 'thread') ORDER BY start_ns"
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Timeline:
    """What would be gained at most of `span_ns`. Shares are of it, by change."""

    what: str  # "GPU", "2 GPUs", "thread 4242"
    span_ns: int
    shares: tuple[float, ...]  # f
    counts: tuple[int, ...]  # calls, or slices of a GPU
    end_to_end: float
    other_ns: int  # of the span, with no operator, or no work on the GPU: nothing chosen makes that shorter
    probe_share: float | None  # of the span, that probes took, as if all hits were the thread's; None: not measured

    @property
    def share(self) -> float:
        """f: all changes together."""
        return sum(self.shares)


def is_timeline(recording: Recording) -> bool:
    """Whether this, and no graph of ggml's, is what the recording has."""
    return GPU.met(recording) or (CALLS.met(recording) and not recording.rows("SELECT count(*) FROM graph_exec")[0][0])


def timeline(recording: Recording, changes: Sequence[Change]) -> Timeline:
    """Raises NothingToProfileError where the recording cannot carry an answer, NotFoundError when nothing is chosen,
    UsageError when a call is chosen twice, for blocks, and for changes that make slower."""
    for change in changes:
        if change.kind == "block":
            raise UsageError("blocks are known of ggml's graphs only", f"--op NAME={change.factor:g}x")
        if change.factor < 1:
            raise UsageError("a timeline says what is gained at most, not what is lost", "give factors above 1")
    refuse_losses(recording)
    return _gpu(recording, changes) if GPU.met(recording) else _host(recording, changes)


# ---------------------------------------------------------------------- a GPU


def _gpu(recording: Recording, changes: Sequence[Change]) -> Timeline:
    slices = recording.columns(read_sql("gpu_slices.sql"), {"from_ns": beginning(recording)})
    kernels = [str(name) for (name,) in recording.rows(NAME_SQL)]
    operators = recording.columns(read_sql("gpu_operators.sql"))
    whats = [str(name) for name, *_ in recording.rows(read_sql("gpu_whats.sql"))]
    start, dur, kernel = (np.asarray(slices[name], np.int64) for name in ("start_ns", "dur_ns", "name_id"))
    ids, what = (np.asarray(operators[name], np.int64) for name in ("call_id", "what_id"))
    parent = _place(ids, np.asarray(operators["parent_id"], np.int64))
    at = _place(ids, np.asarray(slices["operator_id"], np.int64))
    own = _choose(whats, changes)[what]
    _refuse_twice(changes, own, _around(own, parent, parent), whats, what)
    by_kernel = np.append(_choose(kernels, changes), -1)[kernel]  # a slice without a name: -1
    by_operator = _around(own, parent, at)
    _refuse_twice(changes, by_kernel, by_operator, kernels, kernel)
    chosen = np.where(by_kernel >= 0, by_kernel, by_operator)
    counts = [int((chosen == number).sum()) for number in range(len(changes))]
    for number, change in enumerate(changes):
        if not counts[number]:
            known, named = at >= 0, kernel >= 0
            raise _nothing(change, [*_by_time(whats, what[at[known]], dur[known])[:6],
                                    *_by_time(kernels, kernel[named], dur[named])[:6]])  # fmt: skip
    computes = np.isin(slices["kind"], (KERNEL, COLLECTIVE, GRAPH))  # copies and memsets are known for what they are
    unknown, work = int(dur[computes & (at < 0) & (by_kernel < 0)].sum()), int(dur[computes].sum())
    if unknown > UNKNOWN * work and not (by_kernel[chosen >= 0] >= 0).all():
        raise NothingToProfileError(
            f"{recording.path} cannot say: {unknown / work * 100:.0f} % of the GPU's kernels have no known operator",
            "choose kernels by their names: flowprof report FILE shows them",
        )
    end = start + dur
    span = int(end.max() - start.min())
    shares, before = [0.0] * len(changes), 0
    taken = np.zeros(len(start), bool)
    for number in sorted(range(len(changes)), key=lambda number: -changes[number].factor):
        taken |= chosen == number
        reached = intervals.length(start[taken], end[taken])
        shares[number], before = (reached - before) / span, reached
    devices = len(np.unique(slices["device"]))
    return Timeline("GPU" if devices == 1 else f"{devices} GPUs", span, tuple(shares), tuple(counts),
                    _amdahl(shares, changes), span - intervals.length(start, end), None)  # fmt: skip


# ---------------------------------------------------------------------- the host


def _host(recording: Recording, changes: Sequence[Change]) -> Timeline:
    if recording.rows(LAUNCH_SQL)[0][0]:
        raise NothingToProfileError(
            f"{recording.path} cannot say: its operators launch work of a GPU, whose times are not in it",
            "record it with torch.profiler or nsys, then: flowprof import FILE",
        )
    calls = {name: np.asarray(column, np.int64) for name, column in recording.columns(CALL_SQL).items()}
    names = [str(name) for (name,) in recording.rows(CALL_NAME_SQL)]
    around = _place(calls["call_id"], calls["parent_id"])
    dur = calls["end_ns"] - calls["start_ns"]
    outermost = around < 0
    threads, thread = np.unique(np.stack([calls["pid"], calls["tid"]]), axis=1, return_inverse=True)
    within = np.bincount(thread.ravel(), weights=np.where(outermost, dur, 0))
    busiest = int(within.argmax())
    others = float(within.sum() - within[busiest])
    if others > OTHERS * within[busiest]:
        raise NothingToProfileError(
            f"{recording.path} cannot say: {len(within)} threads call operators, and which waits for which is not "
            "recorded",
            "record one thread at work, or look at the shares: flowprof report FILE",
        )
    mine = thread.ravel() == busiest
    own = _choose(names, changes)[calls["name_id"]]
    above = _around(own, around, around)  # what the calls around each are chosen by
    _refuse_twice(changes, np.where(mine, own, -1), above, names, calls["name_id"])
    counted = mine & (own >= 0) & (above < 0)
    counts = [int((counted & (own == number)).sum()) for number in range(len(changes))]
    for number, change in enumerate(changes):
        if not counts[number]:
            raise _nothing(change, _by_time(names, calls["name_id"][mine], dur[mine]))
    if sum(counts) < MIN_CALLS:
        raise NothingToProfileError(f"{recording.path} cannot say: fewer than {MIN_CALLS} calls", "record longer")
    span = _observed(recording, calls["start_ns"][mine & outermost], calls["end_ns"][mine & outermost])
    shares = [int(dur[counted & (own == number)].sum()) / span for number in range(len(changes))]
    spent = recording.rows(PROBE_SQL)[0][0]
    return Timeline(
        f"thread {int(threads[1, busiest])}", span, tuple(shares), tuple(counts), _amdahl(shares, changes),
        span - int(within[busiest]), None if spent is None else float(spent) / span,
    )  # fmt: skip


def _observed(recording: Recording, start: Ints, end: Ints) -> int:
    """ns from the first to the last operator in each window, together; imports are one window."""
    windows = recording.rows(WINDOW_SQL)
    if recording.meta().get("imported_from") or not windows:
        return int(end.max() - start.min())
    window = np.searchsorted(np.array([begin for begin, _ in windows], np.int64), start, side="right")
    order = np.argsort(window, kind="stable")
    edges = np.flatnonzero(np.diff(window[order], prepend=-1))
    first, last = np.minimum.reduceat(start[order], edges), np.maximum.reduceat(end[order], edges)
    return int((last - first).sum())


# ---------------------------------------------------------------------- what is chosen


def _choose(names: Sequence[str], changes: Sequence[Change]) -> Ints:
    """By name the change that chooses it, -1 for none. Raises UsageError where two do."""
    found = np.full(len(names), -1, np.int64)
    for at, name in enumerate(names):
        mine = [number for number, change in enumerate(changes) if _is(name, change.pattern)]
        if len(mine) > 1:
            raise _both(changes, mine[0], mine[1], name)
        if mine:
            found[at] = mine[0]
    return found


def _is(name: str, pattern: str) -> bool:
    name, wanted = name.lower(), pattern.lower()
    if wanted == "attn":
        return any(fnmatch.fnmatchcase(name, one) for one in ATTENTION)
    return fnmatch.fnmatchcase(name, wanted) or fnmatch.fnmatchcase(name.rpartition("::")[2], wanted)


def _place(ids: Ints, wanted: Ints) -> Ints:
    """Where each wanted number is among the sorted ids; -1: nowhere."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[at] == wanted, at, -1)


def _around(own: Ints, parent: Ints, at: Ints) -> Ints:
    """By row the change of the call at `at`, or of the first around it that has one; -1: none has."""
    found = np.full(len(at), -1, np.int64)
    for _ in range(DEPTH):
        live = np.flatnonzero((at >= 0) & (found < 0))
        if not len(live):
            break
        found[live] = own[at[live]]
        at = at.copy()
        at[live] = parent[at[live]]
    return found


def _amdahl(shares: Sequence[float], changes: Sequence[Change]) -> float:
    saved = sum(f * (1 - 1 / change.factor) for f, change in zip(shares, changes, strict=True))
    return 1 / max(1 - saved, 1 / MAX_FACTOR)


def _refuse_twice(changes: Sequence[Change], one: Ints, other: Ints, names: Sequence[str], which: Ints) -> None:
    """Raises UsageError where two changes choose the same. which: of the names, by row."""
    twice = np.flatnonzero((one >= 0) & (other >= 0) & (one != other))
    if len(twice):
        first = int(twice[0])
        raise _both(changes, int(one[first]), int(other[first]), names[int(which[first])])


def _both(changes: Sequence[Change], one: int, other: int, name: str) -> UsageError:
    both = " and ".join(f"--op {changes[number].pattern}" for number in (one, other))
    return UsageError(f"{both} both choose {name[:200]}", "let every call be chosen once")


def _by_time(names: Sequence[str], which: Ints, dur: Ints) -> list[str]:
    spent = np.bincount(which, weights=dur, minlength=len(names))
    return [names[at] for at in np.argsort(-spent, kind="stable").tolist() if spent[at]]


def _nothing(change: Change, there: Sequence[str]) -> NotFoundError:
    known = ", ".join(name[:60] for name in dict.fromkeys(there[:12]))
    return NotFoundError(f"nothing called {change.pattern!r} was recorded", f"there are {known}")
