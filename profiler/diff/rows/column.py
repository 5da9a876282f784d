"""A row in the making: what it matches, and its times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.diff.rows.align import Match
from flowprof.profiler.diff.steps.steps import Floats, Steps


@dataclass(frozen=True, slots=True)
class Column:
    """layers: those it is of, where it is of some only."""

    match: Match
    layers: tuple[int, ...] | None = None


def times(steps: Steps, columns: Sequence[Column], side: str) -> Floats:
    """(n, columns) ns of one recording's steps."""
    place = {group: at for at, group in enumerate(steps.groups)}
    ns = np.zeros((len(steps.tokens), len(columns)))
    for at, column in enumerate(columns):
        for group in column.match.a if side == "a" else column.match.b:
            if group not in place:
                continue
            if column.layers is None:
                ns[:, at] += steps.ns[:, place[group]]
            else:
                layers, each = steps.layers[group]
                ns[:, at] += each[:, [layer in column.layers for layer in layers]].sum(axis=1)
    return ns
