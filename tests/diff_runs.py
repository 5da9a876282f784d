"""Synthetic runs of a known kind for the diff: steps of a phase, each with the time of many groups."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from flowprof.profiler.diff.steps.steps import Group, GroupFacts, Steps
from scipy import signal


@dataclass(frozen=True, slots=True)
class Run:
    """One recording. Times follow a log-normal noise, of which a part is shared by all groups of a step and passes from
    one step to the next (a clock, a neighbour): that is what real runs do.
    """

    seed: int
    steps: int = 600
    groups: int = 200
    noise: float = 0.05  # standard deviation of one group in one step, relative
    shared: float = 0.02  # of what all groups have in common
    correlation: float = 0.8  # of the shared part, from step to step
    factors: dict[int, float] = field(default_factory=dict)  # group → times as long
    phase_factor: float = 1.0
    tail: dict[int, tuple[float, float]] = field(default_factory=dict)  # group → share of steps, times as long there
    tokens: int = 1  # of a step
    without: tuple[int, ...] = ()
    more: tuple[int, ...] = ()  # numbers of groups that only this run has


def group(number: int, phase: str = "decode") -> Group:
    return Group("operator", phase, "ffn", "MUL_MAT", f"tensor_{number}", f"{64 + number}x64 q8_0")


def base_ns(number: int) -> float:
    """Mean time of a group in a step: from 10 µs to 1 ms."""
    return float(10_000 * 100 ** ((number * 37 % 200) / 200))


def steps(run: Run, phase: str = "decode") -> Steps:
    """The run as a source would give it. A mean-neutral tail: what the slow steps take more, the others take less."""
    random = np.random.default_rng(run.seed)
    numbers = [one for one in range(run.groups) if one not in run.without] + list(run.more)
    draws = random.normal(size=run.steps) * np.sqrt(1 - run.correlation**2)
    shared = signal.lfilter([1.0], [1.0, -run.correlation], draws) * run.shared
    own = random.normal(size=(run.steps, len(numbers))) * run.noise
    ns = np.array([base_ns(one) for one in numbers]) * np.exp(own + shared[:, None]) * run.phase_factor * run.tokens
    for at, one in enumerate(numbers):
        ns[:, at] *= run.factors.get(one, 1.0)
        if one in run.tail:
            share, times = run.tail[one]
            slow = random.random(run.steps) < share
            ns[:, at] *= np.where(slow, times, (1 - share * times) / (1 - share))
    start = np.cumsum(ns.sum(axis=1)).astype(np.int64)
    tokens = np.full(run.steps, run.tokens, np.int64)
    facts = tuple(GroupFacts(order=one) for one in numbers)
    return Steps(
        phase, start, tokens, tuple(group(one, phase) for one in numbers), ns, facts, {}, start, tokens, ns.sum(axis=1)
    )
