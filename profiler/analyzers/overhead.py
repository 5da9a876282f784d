"""The recording's own slow-down, measured from its windows.

Deep windows (op, thread) lie between shallow ones (token). For each deep window the mean decode step, those included
that ran while its probes were placed and taken off, is compared with the time-weighted geometric mean of the nearest
shallow window before and after it, so that a drifting speed cancels out. A level's ratio is the exponential of the
mean log-ratio over its windows, its interval Student's t on the same.

The token level is always attached and is the base, so what it costs cannot be measured this way: mostly the recorder's
own processor time. Where a processor is idle it costs the target nothing, where none is, at most itself. So the whole
recording's ratio is 1 + Σ over levels of (ratio − 1) × the level's share of the time + that time as a share of all
(`displaced`), and its interval begins without that and ends with all of it. Where one level has too few windows, both
deep levels are taken as one; where even these are too few the answer is "not measurable", never a guess.

The modelled cost (hits × measured cost of one hit) is processor time over all threads; it stands beside the measured
figure and is never mixed with it.
"""

from __future__ import annotations

import math

import numpy as np
from flowprof.profiler.analyzers.contract import GRAPHS, WINDOWS, Analyzer, Result
from flowprof.profiler.sections.overhead import LevelCost, Overhead
from flowprof.profiler.store import Recording, read_sql

DEEP = ("op", "thread")
MIN_WINDOWS = 4  # deep windows with a shallow neighbour
MIN_SHALLOW = 3  # different shallow neighbours: one may be slow by chance, and the first ones see the attaching itself
MIN_STEPS = 30  # decode steps in the deep windows
MIN_STEPS_PER_WINDOW = 2
NEIGHBOUR_NS = 10_000_000_000  # a shallow window further away says nothing about now

TIME_SQL = """
SELECT level, sum(to_ns - from_ns)::BIGINT, sum(recorder_ns)::BIGINT, sum(displaced_ns)::BIGINT
FROM window_span GROUP BY level
"""
SITE_SQL = """
SELECT cost_class, sum(hits)::BIGINT, sum(hits * cost_ns), avg(cost_ns) FROM probe_site
WHERE status = 'attached' AND hits > 0 GROUP BY cost_class ORDER BY cost_class
"""
BUSY_SQL = "SELECT coalesce(sum(dur_ns), 0)::BIGINT FROM graph_duration"
THREADS_SQL = "SELECT greatest(count(DISTINCT (pid, ith)), 1) FROM thread WHERE ith IS NOT NULL"


def analyze(recording: Recording) -> Result:
    windows = recording.columns(read_sql("decode_windows.sql"))
    used = recording.rows(TIME_SQL)
    times = {str(level): int(ns) for level, ns, _, _ in used}
    whole = sum(times.values())
    recorder = [int(ns) for _, _, ns, _ in used if ns is not None]
    displaced = [int(ns) for level, _, _, ns in used if level == "token" and ns is not None]
    base = sum(displaced) / whole if displaced and whole else None
    levels = tuple(
        level_cost(windows, level, times[level] / whole if whole else 0.0) for level in DEEP if times.get(level)
    )
    pooled = None
    if len(levels) > 1 and any(level.ratio is None for level in levels):
        pooled = level_cost(windows, " and ".join(DEEP), sum(level.time_share for level in levels))
    total, interval, reason = _whole(levels, pooled, base or 0.0, deep_only=not times.get("token"))
    hits, modelled, classes = _modelled(recording)
    busy = recording.rows(BUSY_SQL)[0][0]
    threads = recording.rows(THREADS_SQL)[0][0]
    return Result(
        Overhead(
            ratio=total,
            ci95=interval,
            windows=sum(level.windows for level in levels),
            reason=reason,
            levels=levels,
            modelled_cpu_ns=modelled,
            modelled_ratio=1 + modelled / (busy * threads) if modelled is not None and busy else None,
            hits=hits,
            cost_per_hit_ns=classes,
            recorder_share=sum(recorder) / whole if recorder and whole else None,
            displaced=base,
        )
    )


def level_cost(windows: dict[str, np.ndarray], level: str, time_share: float) -> LevelCost:
    """One level's ratio from the windows' relative decode times (columns of decode_windows.sql).

    `level` is op, thread, or "op and thread": both together.
    """
    usable = np.asarray(windows["steps"]) >= MIN_STEPS_PER_WINDOW
    names = np.asarray(windows["level"], dtype=object)
    middle = (np.asarray(windows["start_ns"], dtype=float) + np.asarray(windows["end_ns"], dtype=float)) / 2
    log_time = np.log(np.asarray(windows["relative"], dtype=float))
    deep = np.flatnonzero(np.isin(names, level.split(" and ")) & usable)
    shallow = np.flatnonzero((names == "token") & usable)
    if len(shallow) == 0:
        return LevelCost(level, None, None, 0, int(np.sum(windows["steps"][deep])), time_share,
                         _why_no_base(bool(np.any(names == "token"))))  # fmt: skip
    at, base = middle[shallow], log_time[shallow]
    position = np.searchsorted(at, middle[deep])
    before = np.clip(position - 1, 0, len(shallow) - 1)
    after = np.clip(position, 0, len(shallow) - 1)
    to_before = np.where(position > 0, middle[deep] - at[before], np.inf)
    to_after = np.where(position < len(shallow), at[after] - middle[deep], np.inf)
    near_before, near_after = to_before <= NEIGHBOUR_NS, to_after <= NEIGHBOUR_NS
    weight_before = np.where(near_before, 1 / np.maximum(to_before, 1.0), 0.0)
    weight_after = np.where(near_after, 1 / np.maximum(to_after, 1.0), 0.0)
    paired = near_before | near_after
    weights = np.where(paired, weight_before + weight_after, 1.0)
    expected = (weight_before * base[before] + weight_after * base[after]) / weights
    differences = (log_time[deep] - expected)[paired]
    steps = int(np.sum(np.asarray(windows["steps"])[deep][paired]))
    count = len(differences)
    if count < MIN_WINDOWS or steps < MIN_STEPS:
        reason = f"not measurable: {steps} tokens in {count} window{'' if count == 1 else 's'}"
        return LevelCost(level, None, None, count, steps, time_share, reason)
    bases = len(np.union1d(before[paired & near_before], after[paired & near_after]))
    if bases < MIN_SHALLOW:
        reason = f"not measurable: {bases} of {MIN_SHALLOW} token windows to compare with (--full has few)"
        return LevelCost(level, None, None, count, steps, time_share, reason)
    mean = float(differences.mean())
    # One shallow window serves two deep ones, so the differences are not independent: the variance of one window is
    # taken from them, the variance of the mean from the weight with which each window enters it.
    parts = np.stack([weight_before / weights, weight_after / weights])[:, paired]
    one = float(differences.var(ddof=1)) / (1 + float((parts**2).sum(axis=0).mean()))
    entering = np.zeros(len(shallow))
    np.add.at(entering, before[paired], parts[0] / count)
    np.add.at(entering, after[paired], parts[1] / count)
    margin = student_t(count - 1) * math.sqrt(one * (1 / count + float((entering**2).sum())))
    interval = (math.exp(mean - margin), math.exp(mean + margin))
    return LevelCost(level, math.exp(mean), interval, count, steps, time_share, "")


def _why_no_base(there_are_some: bool) -> str:
    if there_are_some:
        return "not measurable: too few tokens in the token windows; record longer"
    return "no token windows to compare with (--full)"


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t (Abramowitz & Stegun 26.7.5; within 1 % from 3 degrees of freedom)."""
    z = 1.959964
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3


def _whole(
    levels: tuple[LevelCost, ...], pooled: LevelCost | None, base: float, deep_only: bool
) -> tuple[float | None, tuple[float, float] | None, str]:
    if not levels:
        return 1.0 + base, (1.0, 1.0 + base), "token level only: nothing deeper was attached"
    if deep_only:
        return None, None, "not measurable: no token windows to compare with (--full)"
    if pooled is not None and pooled.ratio is not None:  # too few windows of one level: both as one
        levels = (pooled,)
    missing = [level for level in levels if level.ratio is None]
    if missing:
        return None, None, "; ".join(f"{level.level} level {level.reason}" for level in missing)
    extra = sum((level.ratio - 1) * level.time_share for level in levels if level.ratio is not None)
    # Levels are measured on different windows: their errors add as squares.
    error = math.sqrt(
        sum(((level.ci95[1] - level.ci95[0]) / 2 * level.time_share) ** 2 for level in levels if level.ci95)
    )
    return 1 + extra + base, (1 + extra - error, 1 + extra + error + base), ""


def _modelled(recording: Recording) -> tuple[int, float | None, tuple[tuple[str, float], ...]]:
    rows = recording.rows(SITE_SQL)
    hits = sum(int(row[1]) for row in rows)
    if not rows or any(row[2] is None for row in rows):
        return hits, None, ()
    return hits, float(sum(row[2] for row in rows)), tuple((str(row[0]), float(row[3])) for row in rows)


ANALYZER = Analyzer("overhead", "Overhead", (GRAPHS, WINDOWS), analyze)
