"""Rows at contexts that both sides have: what reads the cache is other work at another context."""

from __future__ import annotations

import numpy as np
from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.result import AtContext
from flowprof.profiler.diff.rows.column import Column, times
from flowprof.profiler.diff.rows.phases import interval, number
from flowprof.profiler.diff.steps import contexts
from flowprof.profiler.diff.steps.steps import Steps


def at_equal_context(
    a: list[Steps], b: list[Steps], columns: list[Column], places: list[int]
) -> dict[int, AtContext | None]:
    """Columns by their places in the phase, all None where the sides have no context in common; {} where contexts are
    the same. `q`: these are a family of their own, for they are asked another question."""
    if not columns or not all(len(one.place) for one in (*a, *b)) or not contexts.apart(a, b, measured=True):
        return {}
    kept = contexts.at_equal(a, b, measured=True)
    if kept is None:
        return dict.fromkeys(places)
    sides = [
        [(times(one, columns, name)[which], one.tokens[which]) for one, which in zip(side, each, strict=True)]
        for name, side, each in (("a", a, kept[0]), ("b", b, kept[1]))
    ]
    read = np.concatenate([one.all_context[one.place][which] for one, which in zip(a, kept[0], strict=True)])
    normal = statistics.blocks(sides[0])
    other = statistics.blocks(sides[1], above=normal.limit)
    tested = statistics.test(normal, other, intervals=False, floor=statistics.RUN_TO_RUN)
    q = statistics.adjusted(tested.p)
    counts = statistics.significant(tested, q)
    return {
        place: AtContext(
            contexts=(int(read.min()), int(read.max())),
            steps=(sum(len(tokens) for _, tokens in sides[0]), sum(len(tokens) for _, tokens in sides[1])),
            a_ns_per_token=float(normal.mean[at]),
            b_ns_per_token=float(other.mean[at]),
            delta_ns_per_token=float(tested.delta[at]),
            ci95=interval(tested.low[at], tested.high[at]),
            q=number(q[at]),
            noise_ns_per_token=number(tested.noise[at]),
            significant=bool(counts[at]),
        )
        for at, place in enumerate(places)
    }
