"""What is not given back: unbounded growth (nearly everything is kept) and leaks (a few units never come back).

Growth passes a plateau test: from the last moment at which hardly anything was held to the peak, the last quarter
grows at least about as much as the first. A cache that warms up slows down, and is left alone, however late it does so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler.blame.events import ACQUIRE, Ints
from flowprof.profiler.blame.metrics import gap
from flowprof.profiler.blame.pairing import OPEN
from flowprof.profiler.blame.pinner import pinner
from flowprof.profiler.blame.study import Study


@dataclass(frozen=True, slots=True)
class Growth:
    """A rise of what is held. kept: share of the holds begun in it that last until the peak."""

    resource: int
    begin_ns: int
    peak_ns: int
    units: int
    kept: float
    holder: int | None  # actor
    holder_why: str
    event: int  # where the holder acquired it, or shows that it has it; -1: not known


@dataclass(frozen=True, slots=True)
class Leak:
    """Holds that never end, of one stack of calls (-1: none was taken). rows: of study.held; old: of all stacks."""

    resource: int
    stack: int
    rows: Ints
    old: Ints
    acquires: int
    usual_ns: float  # 99th percentile of the time after which the others came back


def growth(study: Study, resource: int, anytime: bool = False) -> Growth | None:
    """The rise to the most that was held, where it passes the test. anytime: also when it was over before the end."""
    limit = study.thresholds.of
    if study.events.resources[resource].capacity is not None:
        return None  # it cannot
    at, units = gap(study, resource)
    if len(at) < 10:
        return None
    peak = int(np.argmax(units))
    events = study.events
    if not anytime and at[peak] < events.begin_ns + limit("unbounded_growth", "late") * int(events.spans_ns[resource]):
        return None
    before = units[: peak + 1]
    low = int(before.min())
    rise = int(units[peak]) - low
    onset = int(np.flatnonzero(before <= low + limit("unbounded_growth", "onset_share") * rise)[-1])
    steps = np.diff(units[onset : peak + 1], prepend=units[onset])
    walk = float(np.sqrt(np.square(steps.astype(np.float64)).sum()))
    enough = max(limit("unbounded_growth", "units"), limit("unbounded_growth", "noise") * walk)
    if rise < enough or at[peak] <= at[onset]:
        return None
    corners = np.linspace(at[onset], at[peak], 5)
    levels = units[np.maximum(np.searchsorted(at, corners, side="right") - 1, onset)]
    quarters = np.diff(levels)
    spare = walk / 2  # of the walk in a quarter
    steady = quarters[-1] + spare >= limit("unbounded_growth", "steadiness") * quarters[0]
    if not steady or (quarters <= 0).any():
        return None
    held = study.held
    own = np.flatnonzero((events.resource[held.place] == resource) & (held.start_ns < at[peak]))
    own = own[held.start_ns[own] >= at[onset] - 1]
    kept = float((held.end_ns[own] >= at[peak]).mean()) if len(own) else 0.0
    if kept < limit("unbounded_growth", "kept_share"):
        return None
    holder, why, event = pinner(study, resource, int(at[onset]), int(at[peak]))
    return Growth(resource, int(at[onset]), int(at[peak]), rise, kept, holder, why, event)


def kept_of(study: Study, rise: Growth) -> Ints:
    """The holds that a rise is made of: begun in it, and not given back by its peak. Rows of study.held."""
    held = study.held
    own = study.events.resource[held.place] == rise.resource
    found: Ints = np.flatnonzero(
        own & (held.start_ns >= rise.begin_ns) & (held.start_ns <= rise.peak_ns) & (held.end_ns >= rise.peak_ns)
    )
    return found


def leaks(study: Study, resource: int, exhausted: bool = False) -> Leak | None:
    """The calls whose acquires are never released though most are; the worst stack of calls.

    exhausted: others wait because of it, so that leaks end where there is nothing more to acquire.
    """
    limit = study.thresholds.of
    events, held = study.events, study.held
    own = np.flatnonzero(events.resource[held.place] == resource)
    open_ = own[held.how[own] == OPEN]
    ended = own[held.how[own] != OPEN]
    if len(open_) < limit("leak", "count") or len(ended) < len(open_):
        return None
    if study.is_lossy(resource) and len(own) < limit("leak", "lives") * len(np.unique(held.key[own])):
        return None  # releases are lost, and no unit comes back to show which
    usual = float(np.quantile(held.end_ns[ended] - held.start_ns[ended], 0.99))
    old = open_[held.end_ns[open_] - held.start_ns[open_] >= limit("leak", "age_factor") * usual]
    if not len(old):
        return None
    stacks = events.stack[held.acquire]
    observed = int(held.start_ns[own].max()) - events.begin_ns if exhausted else int(events.spans_ns[resource])
    worst = None
    for stack in np.unique(stacks[old]).tolist():
        rows = old[stacks[old] == stack]
        acquires = int((events.kind[held.acquire[own[stacks[own] == stack]]] == ACQUIRE).sum())
        spread = float(held.start_ns[rows].max() - held.start_ns[rows].min()) / max(observed, 1)
        if (
            len(rows) >= max(limit("leak", "count"), limit("leak", "share") * acquires)
            and spread >= limit("leak", "spread")
            and (worst is None or len(rows) > len(worst.rows))
        ):
            worst = Leak(resource, stack, rows, old, acquires, usual)
    return worst


def held_by(study: Study, leak: Leak) -> tuple[int, float]:
    """The actor with most of a leak's holds, and its share of them."""
    counts = np.bincount(study.held.actor[leak.rows])
    actor = int(np.argmax(counts))
    return actor, float(counts[actor] / len(leak.rows))
