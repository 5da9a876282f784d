"""A row's time layer by layer: what the differential flame graph shows below a tensor."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from flowprof.profiler.diff.result import LayerShift
from flowprof.profiler.diff.rows.align import Match
from flowprof.profiler.diff.steps.steps import Group, Steps

Layers = dict[int, float]


def by_layer(
    match: Match, a: Sequence[Steps], b: Sequence[Steps], only: Collection[int] | None = None
) -> tuple[LayerShift, ...]:
    """ns per token in each layer (of `only`), by layer; they add up to the row. () where there is no more than one."""
    normal, other = _side(match.a, a, only), _side(match.b, b, only)
    layers = sorted(normal.keys() | other.keys())
    half_known = (match.a and not normal) or (match.b and not other)
    if len(layers) < 2 or half_known:
        return ()
    return tuple(LayerShift(layer, normal.get(layer), other.get(layer)) for layer in layers)


def _side(groups: Sequence[Group], recordings: Sequence[Steps], only: Collection[int] | None) -> Layers:
    """Over all of the side's tokens. {} where one of the groups is not known by layer: the sum would lack it."""
    found: Layers = {}
    tokens = sum(int(steps.tokens.sum()) for steps in recordings) or 1
    for steps in recordings:
        here = [group for group in groups if group in steps.groups]
        if any(group not in steps.layers for group in here):
            return {}
        for group in here:
            layers, ns = steps.layers[group]
            for layer, total in zip(layers, np.sum(ns, axis=0).tolist(), strict=True):
                if only is None or layer in only:
                    found[layer] = found.get(layer, 0.0) + total / tokens
    return found
