"""Whether the values of a variable are distributed differently, and how far apart they are (numpy and scipy; pure).

After vProf (EuroSys'23), with its weaknesses mended: neighbouring samples resemble each other, so the test is on means
of blocks (statistics.py says how these are cut), and what the normal runs' own quarters differ by is the noise.

Three views of a variable, each a series of numbers in the order of time:

* value: the samples;
* delta: each sample less the one before it in the same thread; of a counter that is read now and then, per second. Its
  blocks are means of sizes, for what goes up comes down;
* duration: how many samples one value stays, where both its ends were seen. Samples, not time: a run that is slower as
  a whole changes no variable.

A counter only grows, all along: how far depends on how long was recorded, so it has no view `value`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, exp, log

import numpy as np
from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.steps.steps import Floats, Ints
from scipy import stats

VIEWS = ("value", "delta", "duration")
BINS = 12  # where there are more distinct values
SEGMENTS = 4  # of a normal run
MIN_SAMPLES = statistics.MIN_BLOCKS * statistics.MIN_STEPS
_DECREASES = 0.01  # share of a counter's changes: it may wrap
_INCREASES = 8
_CRITICAL_005, _CRITICAL_001 = 4.592, 6.546  # of two samples, for p = 0.5 % and 0.1 % (Scholz and Stephens, table 1)


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one variable in one recording, by thread and time. thread: -1 where it is read from outside."""

    at_ns: Ints
    thread: Ints
    value: Floats


View = tuple[Ints, Floats]  # at_ns, quantity; by time


def is_counter(series: Series) -> bool:
    """Whether it grows in every quarter of the recording, and does not fall but to begin again."""
    step = np.diff(series.value)[np.diff(series.thread) == 0]
    grows = step > 0
    if grows.sum() < _INCREASES or (step < 0).sum() > _DECREASES * grows.sum():
        return False
    return all(part.any() for part in np.array_split(grows, SEGMENTS))


def only_grows(series: Series) -> bool:
    """Whether it grows at all, and never falls."""
    step = np.diff(series.value)[np.diff(series.thread) == 0]
    return bool((step >= 0).all() and (step > 0).any())


def views(series: Series, counter: bool) -> dict[str, View]:
    """The views that a recording has of the variable. counter: on this side or the other."""
    same = np.diff(series.thread) == 0
    later = np.flatnonzero(same) + 1
    delta = series.value[later] - series.value[later - 1]
    passed_s = (series.at_ns[later] - series.at_ns[later - 1]) / 1e9
    if counter and (series.thread < 0).all():
        delta, later = delta[passed_s > 0] / passed_s[passed_s > 0], later[passed_s > 0]
    changes = np.flatnonzero(np.concatenate(([True], ~same | (np.diff(series.value) != 0))))
    length = np.diff(changes)  # of all but the last
    first = np.concatenate(([True], ~same))  # of a thread: since when it has its value is not known
    whole = ~first[changes[:-1]] & ~first[changes[1:]]
    found = {
        "delta": _by_time(series.at_ns[later], delta),
        "duration": _by_time(series.at_ns[changes[:-1]][whole], length[whole].astype(float)),
    }
    return found if counter else {"value": _by_time(series.at_ns, series.value), **found}


def block_means(quantity: Floats) -> Floats:
    """One recording's, in the order of time; empty where there are too few for blocks."""
    if len(quantity) < MIN_SAMPLES:
        return np.zeros(0)
    one = np.ones(len(quantity), np.int64)
    begins = statistics.cut(one, statistics.block_count(quantity, one))
    means: Floats = np.add.reduceat(quantity, begins) / np.diff(begins, append=len(quantity))
    return means


def anderson_darling(a: Floats, b: Floats) -> float:
    """p of the k-sample test (Scholz and Stephens 1987) that both are of one distribution; 1 where all are the same.

    scipy's p ends at 0.001; beyond it goes on as its two last critical values do, not below that of a permutation.
    """
    if len(np.unique(np.concatenate((a, b)))) < 2:
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that p was cut off
        found = stats.anderson_ksamp([a, b])
    beyond = float(found.statistic) - _CRITICAL_001
    if beyond <= 0:
        return float(found.pvalue)
    slope = log(0.005 / 0.001) / (_CRITICAL_001 - _CRITICAL_005)
    return max(0.001 * exp(-slope * beyond), 2 / comb(len(a) + len(b), len(a)))


def edges(parts: Sequence[Floats]) -> Floats:
    """Where bins for all of them begin: one for each value, or quantiles of both sides, weighted alike; (k + 1,)."""
    distinct = np.unique(np.concatenate(parts))
    if len(distinct) <= BINS:
        return np.append(distinct, np.inf)
    inner = np.concatenate([np.quantile(part, np.arange(BINS) / BINS, method="lower") for part in parts if len(part)])
    return np.append(np.unique(np.concatenate((distinct[:1], np.sort(inner)[:: len(parts)]))), np.inf)


def shares(quantity: Floats, bins: Floats) -> Floats:
    """Of the quantity in every bin; (k,)."""
    counted = np.histogram(quantity, bins)[0]
    found: Floats = counted / max(len(quantity), 1)
    return found


def hellinger(a: Floats, b: Floats) -> float:
    """Distance of two histograms: 0 alike … 1 nothing in common."""
    return float(np.sqrt(max(0.0, 1 - float(np.sqrt(a * b).sum()))))


def noise(quantities: Sequence[Floats], bins: Floats) -> float:
    """How far apart any two quarters of the normal recordings are."""
    parts = [part for one in quantities for part in np.array_split(one, SEGMENTS) if len(part)]
    counted = [shares(part, bins) for part in parts]
    return max((hellinger(a, b) for a, b in combinations(counted, 2)), default=0.0)


def _by_time(at_ns: Ints, quantity: Floats) -> View:
    order = np.argsort(at_ns, kind="stable")
    return at_ns[order], quantity[order]
