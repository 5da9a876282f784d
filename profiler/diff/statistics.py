"""Whether two sides differ, by how much, and how sure that is (numpy and scipy; pure).

Steps of one recording are not independent: neighbours share a cache, a clock frequency, a noisy neighbour. So nothing
is tested on single steps. A recording is cut into blocks of neighbouring steps with about as many tokens each (batch
means; fewer and longer ones while a block still resembles the one before it), and blocks are what is resampled and
tested.

* Trends: a run that grows along its context varies without being noisy. Where a straight line in time explains much of
  how a group's blocks differ it is taken off, the mean left as it is.
* Shift: Hodges and Lehmann's estimate, the median of all differences between a block of b and one of a.
* Intervals: percentiles of resamples of whole blocks, 95 %.
* Test: Mann and Whitney's, with Benjamini and Hochberg's control of false discoveries over all rows of a diff.
* Noise: what runs do by themselves, from SEGMENTS long parts of each recording: the range of the normal side's without
  its highest and lowest eighth, or three standard errors of the difference between both sides' (Welch), the larger. The
  errors grow where disturbances outlast a block: by as much as segments vary more than independent blocks would make
  them. What a run cannot tell by itself is how it differs from the next one: for single rows it is RUN_TO_RUN at least,
  of several normal runs, too: with three spread ones rows of 3 to 6 % came up where nothing had changed.

A difference counts (`significant`) when q < LEVEL, it exceeds the noise, and a block of one side is above one of the
other in at least SUPERIORITY of the cases: a long recording makes any trifle significant by its p alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from flowprof.profiler.diff.steps import Floats, Ints
from scipy import stats

MAX_BLOCKS = 32  # of one recording
MIN_BLOCKS = 6  # of one side: with fewer nothing is tested
MIN_STEPS = 3  # in a block
TREND = 0.25  # of the spread of MAX_BLOCKS blocks: more is a trend
RESEMBLES = 0.4  # lag-1 correlation of blocks that are too short
SEGMENTS = 8
RUN_TO_RUN = 0.075  # by so much single operators of two runs of one program differ (placement, caches, probes)
ERRORS = 3.0  # standard errors that are noise
BLOCKS_OF_SEGMENT = 1.5
UNKNOWN_MEMORY = 2.0  # what a disturbed machine's had
LEVEL = 0.01
SUPERIORITY = 0.75
BOOTSTRAP = 1000  # resamples of means
SHIFTS = 200  # and of Hodges-Lehmann's estimate, which takes the square of the blocks
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
    first, second = values[:-1] - values.mean(), values[1:] - values.mean()
    spread = float((values - values.mean()) @ (values - values.mean()))
    return spread > 0 and float(first @ second) / spread > limit


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


def blocks(recordings: Sequence[tuple[Floats, Ints]], above: Floats | None = None) -> Blocks:
    """A side's steps in blocks. recordings: ns (n, m) and tokens (n,) of each repeat, all with the same columns m.

    `above`: the other side's limit (m,), from which excess is counted; None: this side's own.
    """
    width = recordings[0][0].shape[1]
    some = [(ns, tokens) for ns, tokens in recordings if len(tokens)]
    if not some:
        nothing = np.zeros((0, width))
        missing = np.full(width, np.nan)
        return Blocks(nothing, np.zeros(0), nothing, nothing, nothing, missing, missing, missing)
    level = [(without_trend(ns, tokens), tokens) for ns, tokens in some]
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
    total = sum(float(tokens.sum()) for _, tokens in some)
    mean = sum((ns.sum(axis=0) for ns, _ in some), np.zeros(width)) / total
    return Blocks(ns, weight, segments, excess, more, _tail(some), limit, mean)


def _tail(recordings: Sequence[tuple[Floats, Ints]]) -> Floats:
    tail: Floats = np.quantile(np.concatenate([ns / tokens[:, None] for ns, tokens in recordings]), TAIL, axis=0)
    return tail


def test(a: Blocks, b: Blocks, seed: int = 1, intervals: bool = True) -> Tested:
    """Every column of b against that of a. Without enough blocks only `delta` is a number; intervals take time."""
    width = len(a.mean)
    nan = np.full(width, np.nan)
    delta = b.mean - a.mean
    if not (a.enough and b.enough) or not width:
        return Tested(delta, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan)
    draw = np.random.default_rng(seed)
    low, high = _mean_interval(a, b, draw) if intervals else (nan, nan)
    shift, shift_low, shift_high = _shift(a.ns, b.ns, draw) if intervals else (nan, nan, nan)
    u, p = _mann_whitney(a.ns, b.ns)
    _, tail_p = _mann_whitney(a.excess, b.excess)
    return Tested(
        delta=delta,
        low=low,
        high=high,
        shift=shift,
        shift_low=shift_low,
        shift_high=shift_high,
        p=p,
        superiority=u / (len(a.ns) * len(b.ns)),
        noise=np.maximum(
            _errors(a.segments, b.segments) * np.sqrt((_memory(a) + _memory(b)) / 2).clip(1.0), _range(a.segments)
        ),
        tail_p=tail_p,
        tail_delta=b.excess_segments.mean(axis=0) - a.excess_segments.mean(axis=0),
        tail_noise=np.maximum(_errors(a.excess_segments, b.excess_segments), _range(a.excess_segments)),
    )


def with_run_to_run(tested: Tested, a: Blocks, times: float = 1.0) -> Tested:
    """Noise is at least what two runs of one program differ by.

    times: so many times as much, for what is smaller than an operator of all layers.
    """
    least = times * RUN_TO_RUN * a.mean
    return replace(tested, noise=np.maximum(tested.noise, least), tail_noise=np.maximum(tested.tail_noise, least))


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


def _mean_interval(a: Blocks, b: Blocks, draw: np.random.Generator) -> tuple[Floats, Floats]:
    def means(side: Blocks) -> Floats:
        counts = draw.multinomial(len(side.weight), np.full(len(side.weight), 1 / len(side.weight)), BOOTSTRAP)
        weights = counts * side.weight
        drawn: Floats = (weights @ side.ns) / weights.sum(axis=1)[:, None]
        return drawn

    low, high = np.quantile(means(b) - means(a), [0.025, 0.975], axis=0)
    return low, high


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
