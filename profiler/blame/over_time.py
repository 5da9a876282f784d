"""How many units are held over time, and what a picture draws of that: means in equal steps."""

from __future__ import annotations

import numpy as np
from flowprof.profiler.blame.events import Ints
from flowprof.profiler.blame.occupancy import Floats

STEPS = 240
LANES = 8


def level(start_ns: Ints, end_ns: Ints, units: Ints) -> tuple[Ints, Floats]:
    """Of stretches with units each, the sum as a step function: values[i] from at_ns[i] on, one row a moment."""
    at = np.concatenate((start_ns, end_ns))
    order = np.argsort(at, kind="stable")
    at, values = at[order], np.cumsum(np.concatenate((units, -units))[order]).astype(np.float64)
    last = np.ones(len(at), bool)
    last[:-1] = at[1:] != at[:-1]
    return at[last], values[last]


def means(at_ns: Ints, values: Floats, edges: Floats) -> Floats:
    """The mean of a step function (values[i] from at_ns[i] on, 0 before) in each step."""
    if not len(at_ns):
        return np.zeros(len(edges) - 1)
    at = np.concatenate((at_ns.astype(np.float64), [max(edges[-1], float(at_ns[-1]))]))
    whole = np.concatenate(([0.0], np.cumsum(values * np.diff(at))))
    found: Floats = np.maximum(np.diff(np.interp(edges, at, whole)) / np.maximum(np.diff(edges), 1e-9), 0.0)
    return found
