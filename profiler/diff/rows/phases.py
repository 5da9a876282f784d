"""Each phase end to end: every step counts, whether its operators were measured or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.result import PhaseShift
from flowprof.profiler.diff.steps import contexts
from flowprof.profiler.diff.steps.levels import Times, at_same_levels
from flowprof.profiler.diff.steps.steps import Floats, Steps

SUBJECTS = ("decode", "step")  # what users mean by speed: of a server, of a torch program

Recordings = Sequence[Sequence[Steps]]  # of one side: the phases of each


def of_phase(side: Recordings, phase: str) -> list[Steps]:
    """That phase in each recording that has it."""
    return [steps for recording in side for steps in recording if steps.phase == phase]


def phase_shifts(a: Recordings, b: Recordings) -> tuple[PhaseShift, ...]:
    """Phases that both sides have; the one that the headline is about first: decode, or a torch program's step, else
    the one with most time."""
    names = dict.fromkeys(steps.phase for recording in a for steps in recording)
    common = [name for name in names if any(len(one.all_ns) for one in of_phase(b, name))]
    sides = [at_same_levels(of_phase(a, name), of_phase(b, name)) for name in common]
    tested = []
    for name, (x, y) in zip(common, sides, strict=True):
        grow = [[contexts.grow(one) for one in of_phase(side, name)] for side in (a, b)]
        normal = statistics.blocks(x, grow=grow[0])
        other = statistics.blocks(y, above=normal.limit, grow=grow[1])
        tested.append((normal, other, statistics.test(normal, other)))
    q = statistics.adjusted(np.array([one.p[0] for *_, one in tested]))
    tail_q = statistics.adjusted(np.array([one.tail_p[0] for *_, one in tested]))
    found = [
        replace(
            _shift(name, sides[at], *tested[at], q[at : at + 1], tail_q[at : at + 1], _said(name, a, b)),
            contexts_apart=contexts_apart(a, b, name), equal=at_equal_context(a, b, name),
        )
        for at, name in enumerate(common)
    ]  # fmt: skip
    time = {one.phase: one.a_ns_per_token * one.a_tokens + one.b_ns_per_token * one.b_tokens for one in found}
    return tuple(sorted(found, key=lambda one: (one.phase not in SUBJECTS or one.q is None, -time[one.phase])))


def at_equal_context(a: Recordings, b: Recordings, phase: str) -> PhaseShift | None:
    """The phase at contexts that both sides have, as many steps of each on either side, as `q` without correction.

    None: the contexts are the same on both sides, or they have none in common.
    """
    mine, theirs = of_phase(a, phase), of_phase(b, phase)
    if not contexts_apart(a, b, phase):
        return None
    kept = contexts.at_equal(mine, theirs)
    if kept is None:
        return None
    sides = at_same_levels(*(
        [_only(one, which) for one, which in zip(side, each, strict=True)]
        for side, each in zip((mine, theirs), kept, strict=True)
    ))  # fmt: skip
    normal = statistics.blocks(sides[0])
    other = statistics.blocks(sides[1], above=normal.limit)
    tested = statistics.test(normal, other)
    return _shift(phase, sides, normal, other, tested, tested.p, tested.tail_p, _said(phase, a, b))


def contexts_apart(a: Recordings, b: Recordings, phase: str) -> bool:
    """Whether the sides' steps are known to have read other contexts."""
    return contexts.apart(of_phase(a, phase), of_phase(b, phase))


def at_worst(shift: PhaseShift) -> float | None:
    """The largest slow-down, relative, that neither the interval nor the noise excludes; None: not tested."""
    if shift.ci95 is None or shift.noise_ns_per_token is None or shift.a_ns_per_token <= 0:
        return None
    reach = max(shift.ci95[1], shift.delta_ns_per_token + shift.noise_ns_per_token)
    return reach / shift.a_ns_per_token


def at_common_context(phase: PhaseShift) -> PhaseShift:
    """A phase without what another context makes of it: what can be held against a limit."""
    if not phase.contexts_apart:
        return phase
    if phase.equal is not None:
        return replace(phase.equal, contexts_apart=True, equal=phase.equal)
    return replace(phase, ci95=None, q=None, noise_ns_per_token=None, significant=False, tail_significant=False)


def named(phase: PhaseShift) -> str:
    """Which of its steps are meant, in words."""
    return f"{phase.phase}, at the contexts that both sides have," if phase.contexts_apart else phase.phase


def subject(phases: Sequence[PhaseShift]) -> PhaseShift:
    """Decode, or a torch program's step, where it was tested; else the first."""
    return next((one for one in phases if one.phase in SUBJECTS and one.q is not None), phases[0])


def tail_growth(shift: PhaseShift) -> float:
    """By how much of a step's time the slowest steps became slower: their p95, or the time above it, which may be that
    of fewer steps than a twentieth."""
    if shift.tail_delta_ns is None or not shift.a_tail_ns or shift.b_tail_ns is None or shift.a_ns_per_token <= 0:
        return 0.0
    each = (shift.b_tail_ns / shift.a_tail_ns - 1, shift.tail_delta_ns / shift.a_ns_per_token)
    return max(each) if shift.tail_delta_ns > 0 else min(each)


def _only(steps: Steps, kept: np.ndarray) -> Steps:
    level = steps.all_level[kept] if len(steps.all_level) else steps.all_level
    return replace(steps, all_ns=steps.all_ns[kept], all_tokens=steps.all_tokens[kept], all_level=level)


def _said(phase: str, a: Recordings, b: Recordings) -> tuple[str, tuple[str, str]]:
    """What times are divided by, and what was taken as a step on both sides."""
    first = [of_phase(side, phase)[0] for side in (a, b)]
    return " or ".join(dict.fromkeys(steps.per for steps in first)), (first[0].what, first[1].what)


def _shift(
    phase: str,
    sides: tuple[list[Times], list[Times]],
    a: statistics.Blocks,
    b: statistics.Blocks,
    tested: statistics.Tested,
    q: Floats,
    tail_q: Floats,
    said: tuple[str, tuple[str, str]],
) -> PhaseShift:
    return PhaseShift(
        phase=phase,
        a_tokens=sum(int(tokens.sum()) for _, tokens in sides[0]),
        b_tokens=sum(int(tokens.sum()) for _, tokens in sides[1]),
        a_ns_per_token=float(a.mean[0]),
        b_ns_per_token=float(b.mean[0]),
        delta_ns_per_token=float(tested.delta[0]),
        ci95=interval(tested.low[0], tested.high[0]),
        q=number(q[0]),
        noise_ns_per_token=number(tested.noise[0]),
        significant=bool(statistics.significant(tested, q)[0]),
        a_tail_ns=number(a.tail[0]),
        b_tail_ns=number(b.tail[0]),
        tail_q=number(tail_q[0]),
        tail_significant=bool(statistics.tail_significant(tested, tail_q)[0]),
        tail_delta_ns=number(tested.tail_delta[0]),
        per=said[0],
        what=said[1],
    )


def number(value: float) -> float | None:
    """None for NaN."""
    return None if np.isnan(value) else float(value)


def interval(low: float, high: float) -> tuple[float, float] | None:
    return None if np.isnan(low) or np.isnan(high) else (float(low), float(high))
