"""A stretch of a device's timeline before and after: as it ran, and as the list scheduler would order it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flowprof.profiler.intervals import Ints
from flowprof.profiler.overlap import schedule
from flowprof.profiler.overlap.interference import Hidden, Interference
from flowprof.profiler.overlap.price import PARTS
from flowprof.profiler.overlap.schedule import Task
from flowprof.profiler.overlap.timeline import COMPUTE, MEMORY, NETWORK, Slices
from flowprof.profiler.sections.overlap import RESOURCES, Picture, Resource, Step

RUNS = 8  # stretches of one resource that a picture shows
NAMES = 3  # of a run


def halves(slices: Slices, names: Sequence[str], split_share: float, table: Interference) -> Picture | None:
    """RUNS stretches of one resource after the other, where most can be hidden; then two half batches of them. Idle
    time between them is left out of both.

    split_share: what the split adds to arithmetic, as a share of it. None: there are no two runs.
    """
    rows, first = _runs(slices)
    if len(first) < 2:
        return None
    at = _window(slices, rows, first)
    edges = np.append(first, len(rows))[at : at + RUNS + 1]
    chosen = np.split(rows[edges[0] : edges[-1]], edges[1:-1] - edges[0])
    tasks: list[Task] = []
    for rows in chosen:
        resource = RESOURCES[slices.resource[rows[0]]]
        name, dur = _name(slices, names, rows), float((slices.end - slices.start)[rows].sum())
        longer = 1 + split_share if resource == "compute" else 1.0
        for part in range(PARTS):
            needs = (len(tasks) - PARTS,) if len(tasks) >= PARTS else ()
            engine: Resource = "compute" if resource == "other" else resource  # of it nothing is known to run beside
            tasks.append(Task(f"{name} {'AB'[part]}", engine, dur * longer / PARTS, needs))
    return _drawn(_in_turn(slices, names, chosen), tasks, table)


def _in_turn(slices: Slices, names: Sequence[str], runs: Sequence[Ints]) -> tuple[Step, ...]:
    found, now = [], 0
    for rows in runs:
        resource, dur = RESOURCES[slices.resource[rows[0]]], int((slices.end - slices.start)[rows].sum())
        found.append(Step(resource, _name(slices, names, rows), resource, now, now + dur))
        now += dur
    return tuple(found)


def pair(kind: Hidden, hidden: tuple[str, int], room: tuple[str, int], table: Interference) -> Picture:
    """Two pieces of work, (name, ns), one after the other and then side by side."""
    (later, later_ns), (earlier, earlier_ns) = hidden, room
    before = (
        Step("compute", earlier, "compute", 0, earlier_ns),
        Step(kind, later, kind, earlier_ns, earlier_ns + later_ns),
    )
    tasks = [Task(earlier, "compute", float(earlier_ns)), Task(later, kind, float(later_ns))]
    return _drawn(before, tasks, table)


def _drawn(before: tuple[Step, ...], tasks: Sequence[Task], table: Interference) -> Picture:
    placed = schedule.listed(tasks, schedule.beside(table))
    after = tuple(
        Step(task.resource, task.name, task.resource, round(start), round(end))
        for task, (start, end) in zip(tasks, placed, strict=True)
    )
    best = schedule.exact(tasks)

    def by_lane(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(sorted(steps, key=lambda step: (RESOURCES.index(step.resource), step.start_ns)))

    return Picture(
        by_lane(before), by_lane(after), max(step.end_ns for step in before), round(schedule.makespan(placed)),
        round(schedule.makespan(schedule.listed(tasks))), None if best is None else round(best),
    )  # fmt: skip


def _runs(slices: Slices) -> tuple[Ints, Ints]:
    """Rows by start, and where in them runs of one resource begin; what overlaps earlier work is left out."""
    done = np.concatenate(([slices.start[0]], np.maximum.accumulate(slices.end)[:-1]))
    rows = np.flatnonzero(slices.start >= done)
    return rows, np.flatnonzero(np.diff(slices.resource[rows], prepend=-1))


def _window(slices: Slices, rows: Ints, first: Ints) -> int:
    """The first run of the RUNS in which most could be hidden behind arithmetic."""
    resource = slices.resource[rows[first]]
    dur = np.add.reduceat((slices.end - slices.start)[rows], first)
    room = _sums(np.where(resource == COMPUTE, dur, 0))
    hidden = _sums(np.where(np.isin(resource, (MEMORY, NETWORK)), dur, 0))
    return int(np.minimum(room, hidden).argmax())


def _sums(values: Ints) -> Ints:
    """Of RUNS values from each place on."""
    whole = np.concatenate(([0], np.cumsum(values)))
    width = min(RUNS, len(values))
    return np.asarray(whole[width:] - whole[:-width], np.int64)


def _name(slices: Slices, names: Sequence[str], rows: Ints) -> str:
    found = list(dict.fromkeys(names[number] for number in slices.name[rows[:64]].tolist()))
    return ", ".join(found[:NAMES]) + (" …" if len(found) > NAMES else "")
