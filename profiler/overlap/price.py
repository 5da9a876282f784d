"""What it would save to run memory's and the network's work behind arithmetic, on the same device.

Three figures that must not be added up. `ideal`: what is hidden costs nothing. `aware`: it takes its share of the
device from the GEMMs (interference.py); hiding D seconds saves D(1 − κ) at best, κ = min R/P, and no more than the
GEMMs' time has room for: a linear program over the points of the table. `net`: aware, less what splitting the batch in
two costs, as every weight is read once more and smaller GEMMs may become bound by memory. How well a kernel does on
half the batch (waves, tiles) is not modelled: all three are upper bounds (NanoFlow itself measured 1.17x where the
second figure is 1.27x).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.overlap.interference import Hidden, Interference

PARTS = 2  # nano-batches


@dataclass(frozen=True, slots=True)
class Saving:
    """Seconds saved by hiding all of `kinds` behind arithmetic; `exposed_s` is the time that they take now."""

    kinds: tuple[Hidden, ...]
    exposed_s: float
    ideal_s: float
    aware_s: float
    split_s: float

    @property
    def net_s(self) -> float:
        """What is left after the split; never less than nothing: who gains nothing does not split."""
        return max(0.0, self.aware_s - self.split_s)


def saving(
    compute_s: float, hidden_s: Mapping[Hidden, float], interference: Interference, split_s: float = 0.0
) -> Saving:
    """compute_s: time of GEMMs that may run meanwhile; hidden_s: time of what would be hidden behind them, by kind."""
    kinds = tuple(kind for kind in hidden_s if hidden_s[kind] > 0)
    exposed = sum(hidden_s[kind] for kind in kinds)
    if not kinds or compute_s <= 0:
        return Saving(kinds, exposed, 0.0, 0.0, split_s)
    return Saving(
        kinds, exposed, min(exposed, compute_s), _aware(compute_s, {k: hidden_s[k] for k in kinds}, interference),
        split_s,
    )  # fmt: skip


def _aware(compute_s: float, hidden_s: Mapping[Hidden, float], interference: Interference) -> float:
    """max Σ (P − R)·x over times x spent at each point, with Σ P·x ≤ D per kind and Σ (1 − R)·x ≤ C."""
    from scipy.optimize import linprog

    points = [(kind, share, speed) for kind in hidden_s for share, speed in interference.points[kind]]
    gain = np.array([speed - share for _, share, speed in points])
    done = np.array([[speed if kind == one else 0.0 for one, _, speed in points] for kind in hidden_s])
    used = np.array([[1 - share for _, share, _ in points]])
    found = linprog(-gain, A_ub=np.vstack([done, used]), b_ub=[*hidden_s.values(), compute_s])
    if found.fun is None:
        raise RuntimeError(f"the linear program has no solution: {found.message}")  # x = 0 always is one
    return float(-found.fun)


def split_cost(gemms: Sequence[tuple[float, float, float]]) -> float:
    """Seconds that PARTS nano-batches cost more than one batch.

    gemms: of each, seconds that its arithmetic takes at the speed it reaches, seconds that its weights take to be read,
    seconds that its activations take. One batch takes the larger of arithmetic and memory; of a part, arithmetic and
    activations shrink with it, the weights do not.
    """
    whole = sum(max(arithmetic, weights + rest) for arithmetic, weights, rest in gemms)
    parts = sum(PARTS * max(arithmetic / PARTS, weights + rest / PARTS) for arithmetic, weights, rest in gemms)
    return parts - whole
