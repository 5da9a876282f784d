"""The threads of the pool on both sides, by their role: what each did with a token's time.

Roles are the places in ggml's pool; 0 drives the graph. Threads of a torch program are phases of their own. Times are
of graph executions in thread windows (waits.py) per token that passed through them, the mean over a side's recordings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from flowprof.profiler.analyzers.absence import splits
from flowprof.profiler.analyzers.contract import GRAPHS, SCHED, coverage
from flowprof.profiler.diff.result import PARTS, Part, PartShift, ThreadShift
from flowprof.profiler.diff.side import Pair, Side
from flowprof.profiler.store import Recording

MAX_THREADS = 256

Role = tuple[str, int]  # phase, place in the pool


def shifts(pair: Pair) -> tuple[ThreadShift, ...]:
    """By phase and role; a thread that only one side has is shown with that side's time. () without thread windows."""
    a, b = _side(pair.a), _side(pair.b)
    roles = sorted(a.keys() | b.keys(), key=lambda role: (role[0] != "decode", role))
    return tuple(
        ThreadShift(
            phase=phase,
            role=ith,
            parts=tuple(PartShift(part, _of(a, (phase, ith), part), _of(b, (phase, ith), part)) for part in PARTS),
        )
        for phase, ith in roles[:MAX_THREADS]
    )


def _of(side: Mapping[Role, Mapping[Part, float]], role: Role, part: Part) -> float | None:
    return side[role][part] if role in side else None


def _side(side: Side) -> dict[Role, dict[Part, float]]:
    each = [found for recording in side.recordings if (found := _recording(recording))]
    roles = {role for found in each for role in found}
    having = {role: [found[role] for found in each if role in found] for role in roles}
    return {
        role: {part: sum(one[part] for one in found) / len(found) for part in PARTS} for role, found in having.items()
    }


def _recording(recording: Recording) -> dict[Role, dict[Part, float]]:
    """ns per token."""
    if not (GRAPHS.met(recording) and SCHED.met(recording)):
        return {}
    tokens = {item.phase: item.tokens_measured for item in coverage(recording, "thread")}
    found: dict[Role, dict[Part, float]] = defaultdict(lambda: dict.fromkeys(PARTS, 0.0))
    for row in splits(recording):
        if not tokens.get(row.phase):
            continue
        for part in PARTS:
            found[row.phase, row.ith][part] += getattr(row, f"{part}_ns") / tokens[row.phase]
    return dict(found)
