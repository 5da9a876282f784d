"""A row's time layer by layer."""

from __future__ import annotations

import numpy as np
from flowprof.profiler.diff.result import LayerShift
from flowprof.profiler.diff.rows.align import Match
from flowprof.profiler.diff.rows.layers import by_layer
from flowprof.profiler.diff.steps.steps import Group, GroupFacts, Steps

UP = Group("operator", "decode", "ffn", "MUL_MAT", "ffn_up", "8x8")
HEAD = Group("operator", "decode", "output", "MUL_MAT", "output", "8x8")


def steps(up: list[list[float]], layers: tuple[int, ...], tokens: list[int]) -> Steps:
    """Steps of ffn_up, one row each with a column for every layer, and of an output that is in no layer."""
    ns = np.array(up)
    return Steps(
        "decode", np.arange(len(tokens)), np.array(tokens), (UP, HEAD),
        np.stack([ns.sum(axis=1), np.full(len(tokens), 7.0)], axis=1), (GroupFacts(), GroupFacts()), {UP: (layers, ns)},
    )  # fmt: skip


def test_layers_add_up_to_the_row_per_token_over_all_repeats() -> None:
    a = [steps([[10, 20], [30, 40]], (0, 1), [1, 3]), steps([[4, 8]], (0, 1), [4])]
    b = [steps([[16, 24, 32]], (0, 1, 2), [8])]
    found = by_layer(Match((UP,), (UP,), ""), a, b)
    assert found == (LayerShift(0, 5.5, 2.0), LayerShift(1, 8.5, 3.0), LayerShift(2, None, 4.0))
    assert sum(one.a_ns or 0 for one in found) == sum(one.ns[:, 0].sum() for one in a) / 8


def test_some_layers_only_and_one_side_only() -> None:
    a = [steps([[10, 20, 30]], (0, 1, 2), [1])]
    assert [one.layer for one in by_layer(Match((UP,), (UP,), ""), a, a, (0, 2))] == [0, 2]
    gone = by_layer(Match((UP,), (), ""), a, [])
    assert gone == (LayerShift(0, 10.0, None), LayerShift(1, 20.0, None), LayerShift(2, 30.0, None))


def test_nothing_where_layers_are_not_known() -> None:
    a = [steps([[10, 20]], (0, 1), [1])]
    assert by_layer(Match((HEAD,), (HEAD,), ""), a, a) == ()
    assert by_layer(Match((UP, HEAD), (UP,), "fused"), a, a) == (), "the sum of side a would lack the output"
    assert by_layer(Match((UP,), (UP,), ""), a, a, (1,)) == (), "one layer is the row itself"
