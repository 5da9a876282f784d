"""The order in which tasks would finish soonest: list scheduling, and an exact program to hold it against.

A resource runs one task at a time; a task begins when those that it needs are done. `listed` starts, whenever a
resource is free, the ready task with the longest path to the end (critical path first). With speeds that depend on
what runs together (interference) it is a simulation of that order. `exact` is the least time without interference, by
a mixed integer program with an order for every pair on one resource (disjunctive constraints, big M).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.overlap.interference import Hidden, Interference
from flowprof.profiler.sections.overlap import Resource

MAX_EXACT = 16  # tasks
MIN_SPEED = 0.05  # what interference leaves to arithmetic at least
Speeds = Callable[[frozenset[str]], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Task:
    """`after`: indexes of tasks that come before this one in the list."""

    name: str
    resource: Resource
    dur_ns: float  # alone
    after: tuple[int, ...] = ()


def listed(tasks: Sequence[Task], speeds: Speeds | None = None) -> list[tuple[float, float]]:
    """Start and end of each task, ns from 0.

    speeds: how fast each resource is while those of a set run; None: 1. Raises ValueError when a task waits for one
    that does not come before it.
    """
    ahead = _paths(tasks)
    left = [task.dur_ns for task in tasks]
    begun: list[float] = [0.0] * len(tasks)
    ended: list[float | None] = [None] * len(tasks)
    running: dict[str, int] = {}
    waiting = sorted(range(len(tasks)), key=lambda one: (-ahead[one], one))
    now = 0.0
    while waiting or running:
        for one in tuple(waiting):
            task = tasks[one]
            if task.resource not in running and all(ended[before] is not None for before in task.after):
                running[task.resource] = one
                begun[one] = now
                waiting.remove(one)
        speed = speeds(frozenset(running)) if speeds else dict.fromkeys(running, 1.0)
        passing = min(left[one] / speed[resource] for resource, one in running.items())
        now += passing
        for resource, one in tuple(running.items()):
            left[one] -= passing * speed[resource]
            if left[one] <= 1e-9 * max(tasks[one].dur_ns, 1.0):
                ended[one] = now
                del running[resource]
    return [(start, end or 0.0) for start, end in zip(begun, ended, strict=True)]


def makespan(placed: Sequence[tuple[float, float]]) -> float:
    return max((end for _, end in placed), default=0.0)


def beside(table: Interference) -> Speeds:
    """Arithmetic gives up the share at which hiding is cheapest, what is hidden runs at the speed that this buys."""
    kinds: tuple[Hidden, ...] = ("memory", "network", "copy")

    def speeds(running: frozenset[str]) -> dict[str, float]:
        found = dict.fromkeys(running, 1.0)
        if "compute" in running:
            for kind in kinds:
                if kind in running:
                    share, found[kind] = table.best(kind)
                    found["compute"] -= share
            found["compute"] = max(MIN_SPEED, found["compute"])
        return found

    return speeds


def exact(tasks: Sequence[Task], seconds: float = 1.0) -> float | None:
    """The least makespan, ns; None: more than MAX_EXACT tasks, or not proven within `seconds`."""
    if not tasks:
        return 0.0
    if len(tasks) > MAX_EXACT:
        return None
    from scipy.optimize import Bounds, LinearConstraint, milp

    reach = _reach(tasks)
    pairs = [
        (one, other) for one in range(len(tasks)) for other in range(one + 1, len(tasks))
        if tasks[one].resource == tasks[other].resource and one not in reach[other]
    ]  # fmt: skip
    whole = sum(task.dur_ns for task in tasks) or 1.0
    dur = [task.dur_ns / whole for task in tasks]  # big M = 1
    count, end = len(tasks), len(tasks) + len(pairs)  # variables: starts, orders, makespan
    rows, least = [], []

    def add(coefficients: dict[int, float], at_least: float) -> None:
        row = np.zeros(end + 1)
        for column, value in coefficients.items():
            row[column] = value
        rows.append(row)
        least.append(at_least)

    for one, task in enumerate(tasks):
        add({end: 1, one: -1}, dur[one])
        for before in task.after:
            add({one: 1, before: -1}, dur[before])
    for number, (one, other) in enumerate(pairs, count):  # order 1: one before other
        add({other: 1, one: -1, number: -1}, dur[one] - 1)
        add({one: 1, other: -1, number: 1}, dur[other])
    goal = np.zeros(end + 1)
    goal[end] = 1
    integral = np.concatenate((np.zeros(count), np.ones(len(pairs)), [0]))
    found = milp(goal, constraints=LinearConstraint(np.array(rows), np.array(least), np.inf), integrality=integral,
                 bounds=Bounds(0, 1), options={"time_limit": seconds})  # fmt: skip
    return float(found.fun * whole) if found.status == 0 else None


def _paths(tasks: Sequence[Task]) -> list[float]:
    """Of each task its own time and the longest of what comes after it."""
    after = [0.0] * len(tasks)
    found = [0.0] * len(tasks)
    for one in range(len(tasks) - 1, -1, -1):
        found[one] = tasks[one].dur_ns + after[one]
        for before in tasks[one].after:
            if not 0 <= before < one:
                raise ValueError(f"task {one} waits for {before}, which does not come before it")
            after[before] = max(after[before], found[one])
    return found


def _reach(tasks: Sequence[Task]) -> list[set[int]]:
    """Of each task all that must be done before it."""
    found: list[set[int]] = []
    for task in tasks:
        found.append(set(task.after).union(*(found[before] for before in task.after)))
    return found
