"""Whether two sides differ, by how much, and how sure that is (numpy and scipy; pure).

Steps of one recording are not independent: neighbours share a cache, a clock frequency, a noisy neighbour. So nothing
is tested on single steps. A recording is cut into blocks of neighbouring steps with about as many tokens each (batch
means; fewer and longer ones while a block still resembles the one before it), and blocks are what is resampled and
tested.

* Trends: a run that grows along its context varies without being noisy. Where a straight line in time explains much of
  how a group's blocks differ it is taken off, the mean left as it is. Not so where contexts are known not to grow: then
  it is the machine that drifts, and that is noise.
* Shift: Hodges and Lehmann's estimate, the median of all differences between a block of b and one of a.
* Intervals: 95 %, Welch's t over blocks, errors as below. Of the shift: percentiles of resamples of whole blocks.
* Test: Mann and Whitney's, with Benjamini and Hochberg's control of false discoveries over all rows of a diff.
* Noise: what runs do by themselves, from SEGMENTS long parts of each recording: the range of the normal side's without
  its highest and lowest eighth, or three standard errors of the difference between both sides' (Welch), the larger. The
  errors grow where disturbances outlast a block: by as much as segments vary more than independent blocks would make
  them. What a run cannot tell by itself is how it differs from the next one: for single rows it is RUN_TO_RUN at least.
* Runs: ENOUGH_RUNS normal recordings tell that themselves. Then the run, not the block, is what varies: one more run of
  the same program lies within t · s · sqrt(1 + 1/N) of the mean of N (the prediction interval; Hahn and Meeker,
  Statistical Intervals, 1991). That of 99 % is noise, that of 95 % widens the interval, and its p must be small, too.
  Few runs tell little of how a single row varies: its variance is the mean of its own and the rows' common one
  (relative to their times), which doubles the degrees of freedom (a moderated t; Smyth, Statistical Applications in
  Genetics and Molecular Biology 3, 2004).

* Tails: time in steps above the normal side's TAIL quantile. As much of it as a change of every step by the noise would
  make is noise.

A difference counts (`significant`) when q < LEVEL, it exceeds the noise, and a block of one side is above one of the
other in at least SUPERIORITY of the cases: a long recording makes any trifle significant by its p alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flowprof.profiler.diff.steps.steps import Floats, Ints
from scipy import stats

MAX_BLOCKS = 32  # of one recording
MIN_BLOCKS = 6  # of one side: with fewer nothing is tested
MIN_STEPS = 3  # in a block
ENOUGH_RUNS = 3  # of the normal side: they tell how runs differ
WANTED_RUNS = 5  # with three t is 9.9, with five 4.6
TREND = 0.25  # of the spread of MAX_BLOCKS blocks: more is a trend
RESEMBLES = 0.4  # lag-1 correlation of blocks that are too short
SEGMENTS = 8
RUNS_LEVEL = 0.99  # of the prediction interval that is noise
RUN_TO_RUN = 0.075  # by so much single operators of two runs of one program differ (placement, caches, probes)
ERRORS = 3.0  # standard errors that are noise
BLOCKS_OF_SEGMENT = 1.5
UNKNOWN_MEMORY = 2.0  # what a disturbed machine's had
LEVEL = 0.01
SUPERIORITY = 0.75
SHIFTS = 200  # resamples of Hodges-Lehmann's estimate, which takes the square of the blocks
TAIL = 0.95


@dataclass(frozen=True, slots=True)
class Blocks:
    """One side, in blocks k; columns m. `ns` per token: (k, m); `weight` tokens: (k,)."""

    ns: Floats
    weight: Floats
    segments: Floats  # (s, m) per token: longer parts, for the noise
    excess: Floats  # (k, m) per token: time of steps above the tail's threshold
    excess_segments: Floats  # (s, m)
    tail: Floats  # (m,) the TAIL quantile of steps, per token
    limit: Floats  # (m,) likewise without trends: excess begins there
    mean: Floats  # (m,) per token over all steps
    runs: Floats  # (r, m) the same of each recording
    excess_runs: Floats  # (r, m)
    excess_moved: Floats  # (m,) by so much excess grows when every step takes RUN_TO_RUN longer

    @property
    def enough(self) -> bool:
        return len(self.weight) >= MIN_BLOCKS


@dataclass(frozen=True, slots=True)
class Tested:
    """All columns of two sides. NaN: not tested."""

    delta: Floats  # (m,) of the means
    low: Floats
    high: Floats
    shift: Floats  # Hodges-Lehmann
    shift_low: Floats
    shift_high: Floats
    p: Floats
    superiority: Floats  # share of pairs of blocks in which b is above a, ties half
    noise: Floats
    tail_p: Floats
    tail_delta: Floats
    tail_noise: Floats


def cut(tokens: Ints, parts: int) -> Ints:
    """Where `parts` runs of neighbouring steps with about as many tokens begin: (parts,) indices, strictly growing."""
    total = np.cumsum(tokens)
    ideal = np.searchsorted(total, np.arange(parts) / parts * total[-1], side="right")
    return np.unique(np.minimum(ideal, len(tokens) - 1))


def block_count(per_token: Floats, tokens: Ints) -> int:
    """So many blocks that one hardly resembles the one before it; 0: too few steps for two."""
    parts = min(MAX_BLOCKS, len(tokens) // MIN_STEPS)
    while parts > MIN_BLOCKS:
        begins = cut(tokens, parts)
        means = np.add.reduceat(per_token * tokens, begins) / np.add.reduceat(tokens, begins)
        if not resembles(means):
            break
        parts = max(MIN_BLOCKS, parts // 2)
    return parts if parts >= 2 else 0


def resembles(values: Floats, limit: float = RESEMBLES) -> bool:
    """Whether neighbours of a series are alike: its lag-1 correlation is above `limit`."""
    return likeness(values) > limit


def likeness(values: Floats) -> float:
    """Lag-1 correlation; 0 of what does not vary."""
    apart = values - values.mean()
    spread = float(apart @ apart)
    return float(apart[:-1] @ apart[1:]) / spread if spread > 0 else 0.0


def without_trend(ns: Floats, tokens: Ints) -> Floats:
    """(n, m) with the straight line taken off that a column follows in time, where it does (TREND); means stay."""
    parts = min(MAX_BLOCKS, len(tokens) // MIN_STEPS)
    if parts < MIN_BLOCKS:
        return ns
    begins = cut(tokens, parts)
    weight = np.add.reduceat(tokens, begins).astype(float)
    means = np.add.reduceat(ns, begins, axis=0) / weight[:, None]
    place = np.arange(len(begins)) - (len(begins) - 1) / 2
    spread = means - means.mean(axis=0)
    slope = place @ spread / (place @ place)
    total = (spread**2).sum(axis=0)
    explained = np.divide(slope**2 * (place @ place), total, out=np.zeros_like(total), where=total > 0)
    step = (np.cumsum(tokens) - tokens / 2) / tokens.sum() * len(begins)
    step -= (step * tokens).sum() / tokens.sum()
    level: Floats = ns - np.where(explained > TREND, slope, 0.0) * (step * tokens)[:, None]
    return level


def blocks(recordings: Sequence[tuple[Floats, Ints]], above: Floats | None = None, grow: Sequence[bool] = ()) -> Blocks:
    """A side's steps in blocks. recordings: ns (n, m) and tokens (n,) of each repeat, all with the same columns m.

    `above`: the other side's limit (m,), from which excess is counted; None: this side's own. `grow`: of each repeat,
    whether its steps may follow a trend of their own; (): all may.
    """
    width = recordings[0][0].shape[1]
    kinds = grow or [True] * len(recordings)
    some = [one for one in recordings if len(one[1])]
    growing = [kind for kind, (_, tokens) in zip(kinds, recordings, strict=True) if len(tokens)]
    if not some:
        nothing = np.zeros((0, width))
        missing = np.full(width, np.nan)
        return Blocks(
            nothing, np.zeros(0), nothing, nothing, nothing, missing, missing, missing, nothing, nothing, missing
        )
    level = [
        (without_trend(ns, tokens) if kind else ns, tokens) for kind, (ns, tokens) in zip(growing, some, strict=True)
    ]
    limit = _tail(level) if above is None else above
    kept: list[list[Floats]] = [[], [], [], [], []]
    for ns, tokens in level:
        parts = block_count(ns.sum(axis=1) / tokens, tokens)
        if not parts:
            continue
        excess = np.maximum(ns - limit * tokens[:, None], 0.0)
        for into, values, count in ((0, ns, parts), (2, ns, SEGMENTS), (3, excess, parts), (4, excess, SEGMENTS)):
            begins = cut(tokens, min(count, parts))
            weight = np.add.reduceat(tokens, begins).astype(float)
            kept[into].append(np.add.reduceat(values, begins, axis=0) / weight[:, None])
            if into == 0:
                kept[1].append(weight)
    empty = np.zeros((0, width))
    ns, segments, excess, more = (np.concatenate(kept[at]) if kept[at] else empty for at in (0, 2, 3, 4))
    weight = np.concatenate(kept[1]) if kept[1] else np.zeros(0)
    every = np.array([tokens.sum() for _, tokens in some], float)
    runs = np.array([ns.sum(axis=0) for ns, _ in some]) / every[:, None]
    above_limit, moved = (
        np.array([_above(limit, ns * times, tokens) for ns, tokens in level]) for times in (1, 1 + RUN_TO_RUN)
    )
    return Blocks(
        ns, weight, segments, excess, more, _tail(some), limit, every @ runs / every.sum(), runs, above_limit,
        every @ (moved - above_limit) / every.sum(),
    )  # fmt: skip


def _above(limit: Floats, ns: Floats, tokens: Ints) -> Floats:
    """Mean time above the limit, per token."""
    found: Floats = np.maximum(ns - limit * tokens[:, None], 0.0).sum(axis=0) / tokens.sum()
    return found


def _tail(recordings: Sequence[tuple[Floats, Ints]]) -> Floats:
    tail: Floats = np.quantile(np.concatenate([ns / tokens[:, None] for ns, tokens in recordings]), TAIL, axis=0)
    return tail


def test(a: Blocks, b: Blocks, seed: int = 1, intervals: bool = True, floor: float = 0.0) -> Tested:
    """Every column of b against that of a. Without enough blocks only `delta` is a number; `intervals`: the shift's,
    too, which takes time.

    floor: by so much of the mean runs of one program differ at least, where ENOUGH_RUNS do not tell. Above 0 columns
    are rows of one phase.
    """
    width = len(a.mean)
    nan = np.full(width, np.nan)
    delta = b.mean - a.mean
    if not (a.enough and b.enough) or not width:
        return Tested(delta, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan)
    shifts = _shift(a.ns, b.ns, np.random.default_rng(seed)) if intervals else (nan, nan, nan)
    memory = np.sqrt((_memory(a) + _memory(b)) / 2).clip(1.0)
    u, p = _mann_whitney(a.ns, b.ns)
    _, tail_p = _mann_whitney(a.excess, b.excess)
    tail_delta = b.excess_segments.mean(axis=0) - a.excess_segments.mean(axis=0)
    reach = _reach(a, b)
    noise = np.maximum(_errors(a.segments, b.segments) * memory, _range(a.segments))
    tail_noise = np.maximum(_errors(a.excess_segments, b.excess_segments), _range(a.excess_segments))
    if len(a.runs) >= ENOUGH_RUNS:
        spread, tail_spread = _spread(a.runs, a.mean, floor > 0), _spread(a.excess_runs, a.mean, floor > 0)
        reach = np.maximum(reach, spread.within(0.95))
        noise, tail_noise = np.maximum(noise, spread.within()), np.maximum(tail_noise, tail_spread.within())
        p = np.maximum(p, spread.p(delta))
        tail_p = np.maximum.reduce([tail_p, tail_spread.p(tail_delta), spread.p(_as_shift(a, tail_delta))])
    else:
        noise = np.maximum(noise, floor * a.mean)
    tail_noise = np.maximum(tail_noise, _excess_of(a, noise))
    return Tested(
        delta=delta,
        low=delta - reach,
        high=delta + reach,
        shift=shifts[0],
        shift_low=shifts[1],
        shift_high=shifts[2],
        p=p,
        superiority=u / (len(a.ns) * len(b.ns)),
        noise=noise,
        tail_p=tail_p,
        tail_delta=tail_delta,
        tail_noise=tail_noise,
    )


def _excess_of(a: Blocks, shift: Floats) -> Floats:
    """By how much excess grows at most when every step takes `shift` longer: the line through RUN_TO_RUN, 1 to 1 beyond
    (it is convex)."""
    known = RUN_TO_RUN * a.mean
    part = np.divide(shift, known, out=np.ones_like(known), where=known > 0).clip(0, 1)
    found: Floats = part * a.excess_moved + np.maximum(shift - known, 0.0)
    return found


def _as_shift(a: Blocks, excess: Floats) -> Floats:
    """How much longer every step would take for so much more excess: the inverse."""
    size = np.abs(excess)
    part = np.divide(size, a.excess_moved, out=np.ones_like(size), where=a.excess_moved > 0).clip(0, 1)
    found: Floats = part * RUN_TO_RUN * a.mean + np.maximum(size - a.excess_moved, 0.0)
    return found


@dataclass(frozen=True, slots=True)
class _Spread:
    """How far one more run is from the mean of the normal ones: its standard error (m,), with degrees of freedom."""

    error: Floats
    freedom: int

    def within(self, share: float = RUNS_LEVEL) -> Floats:
        found: Floats = self.error * stats.t.ppf((1 + share) / 2, self.freedom)
        return found

    def p(self, delta: Floats) -> Floats:
        """Two-sided; 0 of what never varied and does now, 1 of what is the same."""
        times = np.divide(np.abs(delta), self.error, out=np.where(delta == 0, 0.0, np.inf), where=self.error > 0)
        found: Floats = 2 * stats.t.sf(times, self.freedom)
        return found


def _spread(runs: Floats, mean: Floats, related: bool) -> _Spread:
    """Of runs (r, m). related: columns are rows of one phase, and tell of each other."""
    count = len(runs)
    own, freedom = runs.var(axis=0, ddof=1), count - 1
    if related:
        there = mean > 0
        common = np.median(own[there] / mean[there] ** 2) * freedom / stats.chi2.ppf(0.5, freedom) if there.any() else 0
        own, freedom = (own + common * mean**2) / 2, 2 * freedom
    return _Spread(np.sqrt(own * (1 + 1 / count)), freedom)


def adjusted(p: Floats) -> Floats:
    """Benjamini and Hochberg's q for every p that is a number (NaN stays), any shape flattened to (n,)."""
    q = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q


def significant(tested: Tested, q: Floats) -> np.ndarray:
    """(m,) whether a column's mean differs: see the module's text."""
    apart = np.maximum(tested.superiority, 1 - tested.superiority) >= SUPERIORITY
    return (q < LEVEL) & (np.abs(tested.delta) > tested.noise) & apart


def tail_significant(tested: Tested, q: Floats) -> np.ndarray:
    """(m,) whether more time goes into slow steps than before (or less)."""
    return (q < LEVEL) & (np.abs(tested.tail_delta) > tested.tail_noise)


def _errors(a: Floats, b: Floats) -> Floats:
    errors: Floats = ERRORS * np.sqrt(a.var(axis=0, ddof=1) / len(a) + b.var(axis=0, ddof=1) / len(b))
    return errors


def _memory(side: Blocks) -> Floats:
    """Variance of segments over what blocks would give them if these were independent: 1 where they are."""
    width = side.ns.shape[1]
    per = len(side.ns) / len(side.segments)
    if per < BLOCKS_OF_SEGMENT:  # blocks resembled each other, and were made as long as segments
        return np.full(width, UNKNOWN_MEMORY)
    alone = side.ns.var(axis=0, ddof=1) / per
    found: Floats = np.divide(side.segments.var(axis=0, ddof=1), alone, out=np.ones(width), where=alone > 0)
    return found


def _range(segments: Floats) -> Floats:
    low, high = np.quantile(segments, [1 / SEGMENTS, 1 - 1 / SEGMENTS], axis=0)
    found: Floats = high - low
    return found


def _reach(a: Blocks, b: Blocks) -> Floats:
    """Half of the interval of 95 % of the means' difference (m,): Welch's."""
    variances, freedoms = [], []
    for side in (a, b):
        weight, count = side.weight / side.weight.sum(), len(side.weight)
        apart = ((weight[:, None] * (side.ns - weight @ side.ns)) ** 2).sum(axis=0) * count / (count - 1)
        variances.append(apart * _memory(side).clip(1.0))
        freedoms.append(count - 1)
    total = variances[0] + variances[1]
    below = variances[0] ** 2 / freedoms[0] + variances[1] ** 2 / freedoms[1]
    freedom = np.divide(total**2, below, out=np.ones_like(total), where=below > 0)
    found: Floats = stats.t.ppf(0.975, freedom) * np.sqrt(total)
    return found


def _shift(a: Floats, b: Floats, draw: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    ia = draw.integers(len(a), size=(SHIFTS, min(len(a), MAX_BLOCKS)))
    ib = draw.integers(len(b), size=(SHIFTS, min(len(b), MAX_BLOCKS)))
    width = a.shape[1]
    shift, low, high = np.empty(width), np.empty(width), np.empty(width)
    for at in range(width):
        x, y = a[:, at], b[:, at]
        shift[at] = np.median(y[:, None] - x[None, :])
        drawn = np.median((y[ib][:, :, None] - x[ia][:, None, :]).reshape(SHIFTS, -1), axis=1)
        low[at], high[at] = np.quantile(drawn, [0.025, 0.975])
    return shift, low, high


def _mann_whitney(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """U of b and the two-sided p, by column; columns that are all alike have p = 1."""
    found = stats.mannwhitneyu(b, a, axis=0, alternative="two-sided", method="asymptotic")
    return np.asarray(found.statistic, float), np.nan_to_num(np.asarray(found.pvalue, float), nan=1.0)
