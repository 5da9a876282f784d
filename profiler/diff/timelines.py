"""One step of each side to be looked at operator by operator: the one whose time is the median of its like.

Steps are alike when they are of one phase, were recorded at one level and have as many tokens. Of those that both sides
have, the two are taken that have most steps in common (at thread level when both were recorded so: it shows every
thread). Of a torch program it is an iteration (call_steps.py). Aligned at the step's begin; nothing else about their
times is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.diff.side import Pair, Side
from flowprof.profiler.diff.steps.call_steps import median_iteration, within
from flowprof.profiler.store import Recording, read_sql
from flowprof.profiler.timeline import Kind, OperatorLane, kinds, operator_lanes
from flowprof.profiler.timeline_calls import CallTimeline

MIN_ALIKE = 5  # so many at thread level are enough to prefer it
NEAREST = 16  # steps around the median, of which one with all its operators is taken
NO_CALLS = CallTimeline((), (), 0, 0, 0)
ITERATION = "step"  # the phase of a torch program's main thread
COUNT_SQL = """
SELECT exec_id, count(*) FROM op_exec
WHERE ith = 0 AND end_ns IS NOT NULL AND list_contains($ids, exec_id) GROUP BY exec_id
"""

Like = tuple[str, int]  # level and tokens of a step


@dataclass(frozen=True, slots=True, eq=False)
class RepresentativeStep:
    """A median step. Lanes: its operators by thread, ns since it began; their kinds index into `kinds`."""

    file: str
    phase: str
    level: str  # "" of an iteration: its calls
    tokens: int
    alike: int  # steps of which it is the median
    start_ns: int  # on the recording's clock
    dur_ns: int
    kinds: tuple[Kind, ...]
    lanes: tuple[OperatorLane, ...]
    calls: CallTimeline = NO_CALLS


@dataclass(frozen=True, slots=True, eq=False)
class StepPair:
    """The median step of both sides in one phase; None: that side has no step with operators in it."""

    phase: str
    a: RepresentativeStep | None
    b: RepresentativeStep | None


@dataclass(frozen=True, slots=True)
class _Step:
    recording: Recording
    exec_id: int
    start_ns: int
    dur_ns: int


Found = dict[str, dict[Like, list[_Step]]]  # by phase, then by what makes steps alike


def timelines(pair: Pair) -> tuple[StepPair, ...]:
    """A pair for every phase of which operators were recorded, that with the most time first."""
    a, b = _found(pair.a), _found(pair.b)
    time = Counter[str]()
    for side in (a, b):
        for phase, likes in side.items():
            time[phase] += sum(step.dur_ns for steps in likes.values() for step in steps)
    graphs = [_pair(phase, a.get(phase, {}), b.get(phase, {})) for phase, _ in time.most_common()]
    iterations = StepPair(ITERATION, _iteration(pair.a), _iteration(pair.b))
    return (*graphs, iterations) if iterations.a is not None or iterations.b is not None else tuple(graphs)


def _iteration(side: Side) -> RepresentativeStep | None:
    found = median_iteration(side)
    if found is None:
        return None
    recording, begin, end, alike = found
    calls = within(recording, begin, end)
    return RepresentativeStep(_file(recording), ITERATION, "", 1, alike, begin, end - begin, (), (), calls)


def _file(recording: Recording) -> str:
    return recording.path.rsplit("/", 1)[-1]


def _found(side: Side) -> Found:
    found: Found = {}
    for recording in side.recordings:
        rows = recording.rows(read_sql("diff_measured_steps.sql"))
        for exec_id, phase, level, tokens, start_ns, dur_ns in rows:
            step = _Step(recording, exec_id, start_ns, dur_ns)
            found.setdefault(phase, {}).setdefault((level, tokens), []).append(step)
    return found


def _pair(phase: str, a: dict[Like, list[_Step]], b: dict[Like, list[_Step]]) -> StepPair:
    common = {like: min(len(a[like]), len(b[like])) for like in a.keys() & b.keys()}
    if common:
        like = _best(common)
        return StepPair(phase, _median(phase, like, a[like]), _median(phase, like, b[like]))
    sides = []
    for side in (a, b):
        like = _best({one: len(steps) for one, steps in side.items()}) if side else ("", 0)
        sides.append(_median(phase, like, side.get(like, [])))
    return StepPair(phase, *sides)


def _best(counts: dict[Like, int]) -> Like:
    return max(counts, key=lambda like: (like[0] == "thread" and counts[like] >= MIN_ALIKE, counts[like], like))


def _median(phase: str, like: Like, steps: Sequence[_Step]) -> RepresentativeStep | None:
    """Of the NEAREST to the median the first that lacks no operator, as far as any of them lacks none."""
    if not steps:
        return None
    median = float(np.median([step.dur_ns for step in steps]))
    near = sorted(steps, key=lambda step: abs(step.dur_ns - median))[:NEAREST]
    operators: dict[tuple[int, int], int] = {}
    for recording in {id(step.recording): step.recording for step in near}.values():
        ids = [step.exec_id for step in near if step.recording is recording]
        operators |= {(id(recording), row[0]): row[1] for row in recording.rows(COUNT_SQL, {"ids": ids})}
    chosen = max(near, key=lambda step: operators.get((id(step.recording), step.exec_id), 0))
    found = chosen.recording.columns(read_sql("diff_step_operators.sql"), {"exec": chosen.exec_id})
    known, kind_of = kinds(chosen.recording, found)
    lanes = operator_lanes(chosen.recording, found, kind_of, chosen.start_ns)
    return RepresentativeStep(
        file=_file(chosen.recording),
        phase=phase,
        level=like[0],
        tokens=like[1],
        alike=len(steps),
        start_ns=chosen.start_ns,
        dur_ns=chosen.dur_ns,
        kinds=known,
        lanes=lanes,
    )
