"""Steps at contexts that both sides have: attention reads all of a context, and takes longer the longer that is.

How long it is: the rows of the KV cache that the graph reads (n_kv). llama.cpp rounds them up to 256, and its kernels
skip rows that are masked: where batches tell how many cells the tokens read (all_cells), steps are equal that have as
many of these, too, to CELLS, or to an eighth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flowprof.profiler.diff.steps.steps import Ints, Steps

SAME = 0.1  # share of the steps that would have to have another n_kv for the sides to have the same ones
SAME_CELLS = 0.25  # likewise of cells: some hundred steps are never spread over them alike
CELLS, FROM, OCTAVE = 32, 256, 6  # bins of so many cells; FROM there on so many bins of a doubling
GROWS = 0.25  # of the contexts' variance, by a straight line in time: two requests of one kind
MOST = 1 << 40  # no context is as long

Kept = list[np.ndarray]  # of each recording of a side, which of its steps


def apart(a: Sequence[Steps], b: Sequence[Steps], measured: bool = False) -> bool:
    """Whether the contexts of all steps (of the measured ones only) are known, and are others on one side."""
    rows = [[_of(one, one.all_context, measured) for one in side] for side in (a, b)]
    if not all(len(one) and one.all() for side in rows for one in side) or not all(rows):
        return False
    return _moved(*rows) >= SAME or _moved(*_keys(a, b, measured)) >= SAME_CELLS


def at_equal(a: Sequence[Steps], b: Sequence[Steps], measured: bool = False) -> tuple[Kept, Kept] | None:
    """As many steps of each context on either side, spread evenly over those that there are; None: none in common."""
    keys = _keys(a, b, measured)
    counts = _counts(keys[0]), _counts(keys[1])
    wanted = {at: min(counts[0][at], counts[1][at]) for at in counts[0].keys() & counts[1].keys()}
    if not wanted:
        return None
    return [_thinned(one, wanted, counts[0]) for one in keys[0]], [_thinned(one, wanted, counts[1]) for one in keys[1]]


def grow(steps: Steps) -> bool:
    """Whether steps read longer contexts in the course of a recording (or shorter ones), or it is not known. Requests
    that follow one another begin anew."""
    known = [one for one in (steps.all_cells, steps.all_context) if len(one) > 1 and one.all()]
    if not known:
        return True
    apart, place = known[0] - known[0].mean(), np.arange(len(known[0])) - (len(known[0]) - 1) / 2
    return bool((apart @ place) ** 2 > GROWS * (apart @ apart) * (place @ place))


def _of(steps: Steps, values: Ints, measured: bool) -> Ints:
    return values[steps.place] if measured and len(values) else values


def _keys(a: Sequence[Steps], b: Sequence[Steps], measured: bool) -> tuple[list[Ints], list[Ints]]:
    """A number for each step that is the same where contexts are equal."""
    cells = [[_of(one, one.all_cells, measured) for one in side] for side in (a, b)]
    known = all(len(one) and one.all() for side in cells for one in side)
    found: list[list[Ints]] = [[], []]
    for at, side in enumerate((a, b)):
        for steps, filled in zip(side, cells[at], strict=True):
            rows = _of(steps, steps.all_context, measured)
            found[at].append(rows + MOST * _bin(filled) if known else rows)
    return found[0], found[1]


def _bin(cells: Ints) -> Ints:
    large = FROM // CELLS + np.floor(OCTAVE * np.log2(np.maximum(cells, FROM) / FROM)).astype(np.int64)
    return np.where(cells < FROM, cells // CELLS, large)


def _moved(a: Sequence[Ints], b: Sequence[Ints]) -> float:
    """Share of the steps that would have to be elsewhere on one side (total variation)."""
    counts = _counts(a), _counts(b)
    totals = [sum(one.values()) or 1 for one in counts]
    return sum(
        abs(counts[0].get(at, 0) / totals[0] - counts[1].get(at, 0) / totals[1]) for at in {**counts[0], **counts[1]}
    ) / 2  # fmt: skip


def _counts(side: Sequence[Ints]) -> dict[int, int]:
    if not side:
        return {}
    values, counts = np.unique(np.concatenate(side), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _thinned(contexts: Ints, wanted: dict[int, int], have: dict[int, int]) -> np.ndarray:
    kept = np.zeros(len(contexts), bool)
    for context, count in wanted.items():
        at = np.flatnonzero(contexts == context)
        share = round(len(at) * count / have[context])
        kept[at[np.linspace(0, len(at) - 1, share).astype(int)]] = share > 0
    return kept
