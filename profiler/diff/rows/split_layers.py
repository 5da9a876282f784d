"""A row of which some layers changed unlike the others becomes two."""

from __future__ import annotations

import numpy as np
from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.rows.align import Match
from flowprof.profiler.diff.rows.column import Column, times
from flowprof.profiler.diff.steps.steps import Floats, Steps

APART, SPREADS = 0.05, 4.0  # a layer's change stands apart by at least so much, and so many spreads


def split_layers(columns: list[Column], a: list[Steps], b: list[Steps]) -> list[Column]:
    """Columns of which only some layers changed become two: those layers, and the others."""
    each: list[tuple[int, int]] = []  # column, layer
    for at, column in enumerate(columns):
        if len(column.match.a) == len(column.match.b) == 1:
            each += [(at, layer) for layer in _common_layers(column.match, a, b)]
    if not each:
        return columns
    single = [Column(columns[at].match, (layer,)) for at, layer in each]
    normal = statistics.blocks([(times(one, single, "a"), one.tokens) for one in a])
    other = statistics.blocks([(times(one, single, "b"), one.tokens) for one in b])
    tested = statistics.test(normal, other, intervals=False, floor=2 * statistics.RUN_TO_RUN)
    changed = statistics.significant(tested, statistics.adjusted(tested.p))
    relative = tested.delta / np.where(normal.mean > 0, normal.mean, np.nan)
    found: list[Column] = []
    for at, column in enumerate(columns):
        mine = [i for i, (owner, _) in enumerate(each) if owner == at]
        apart = changed[mine] & _apart(relative[mine]) if mine else np.zeros(0, bool)
        some = tuple(each[i][1] for i, one in zip(mine, apart, strict=True) if one)
        if some and len(some) <= len(mine) / 2:
            others = tuple(each[i][1] for i, one in zip(mine, apart, strict=True) if not one)
            found += [Column(column.match, some), Column(column.match, others)]
        else:
            found.append(column)
    return found


def _apart(relative: Floats) -> np.ndarray:
    """Which layers' relative changes stand apart from what a row's layers changed by in general (median and MAD)."""
    middle = np.nanmedian(relative)
    spread = 1.4826 * np.nanmedian(np.abs(relative - middle))
    apart: np.ndarray = np.abs(relative - middle) > max(APART, SPREADS * spread)
    return apart


def _common_layers(match: Match, a: list[Steps], b: list[Steps]) -> list[int]:
    """The group's layers, where every recording has the same."""
    sets = {one.layers[match.a[0]][0] if match.a[0] in one.layers else () for one in a}
    sets |= {one.layers[match.b[0]][0] if match.b[0] in one.layers else () for one in b}
    return list(sets.pop()) if len(sets) == 1 else []
