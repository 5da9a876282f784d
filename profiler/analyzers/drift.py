"""Drift: how a decode step's time grows with the context, and how much of that is attention over the KV cache.

No probe sees a token's position, so the context is n_kv: the cache rows that the step's attention reads, from the
shapes of its graph. llama.cpp pads it (to 256 in newer versions), so one value covers up to 256 positions, and growth
is stated over ranges of at least MIN_RANGE only. Slopes are Theil and Sen's: the median of the slopes between all pairs
of points with different contexts, with the interval of Sen (1968) by Kendall's variance with ties. A point is the
median of BLOCK neighbouring steps, for neighbours are not independent. Steps of token windows are used where they
suffice, else all; of steps with several sequences only the most frequent number. The attention part (KQ, softmax, KQV,
or flash attention) is fitted likewise on measured steps.

* `drift.context`: the growth over the observed range is 10 % or more of the median step, and the interval excludes
  zero. When attention is what grows: flash attention, a quantized cache (-ctk, -ctv), more threads, a shorter context.

Abstains, with the reason, when the context hardly varies or steps are few.
"""

from __future__ import annotations

import numpy as np
from flowprof.profiler.analyzers.contract import GRAPHS, Analyzer, Need, Result
from flowprof.profiler.findings import Finding
from flowprof.profiler.sections.drift import Drift, DriftPoint, Slope
from flowprof.profiler.store import Recording, read_sql

MIN_RANGE = 512  # tokens of context: two paddings
MIN_STEPS = 40
BLOCK = 5  # neighbouring steps of the same context that make a point
MIN_POINTS = 6
MAX_POINTS = 1_500  # pairs grow with the square
LARGE_SHARE = 0.10  # of the median step

STEPS = Need(
    "SELECT count(*) > 0 FROM graph_duration WHERE phase = 'decode'",
    "no decode steps; record while tokens are generated",
)


def theil_sen(x: np.ndarray, y: np.ndarray) -> tuple[float, float, tuple[float, float]] | None:
    """Slope, intercept and the slope's 95 % interval; None without two different x.

    As scipy.stats.theilslopes: median of all pairs' slopes; intercept through the medians; the interval takes the
    slopes at the ranks (N ± 1.96 σ) / 2, where σ² is the variance of Kendall's S with ties in x and y.
    """
    first, second = np.triu_indices(len(x), 1)
    dx, dy = x[second] - x[first], y[second] - y[first]
    slopes = np.sort(dy[dx != 0] / dx[dx != 0])
    if len(slopes) == 0:
        return None
    n, count = len(x), len(slopes)
    slope = float(np.median(slopes))
    variance = n * (n - 1) * (2 * n + 5) / 18
    for values in (x, y):
        ties = np.unique(values, return_counts=True)[1].astype(float)
        variance -= float((ties * (ties - 1) * (2 * ties + 5)).sum()) / 18
    half = 1.959964 * max(variance, 0.0) ** 0.5
    low = max(0, round((count - half) / 2) - 1)
    high = min(count - 1, round((count + half) / 2))
    return slope, float(np.median(y) - slope * np.median(x)), (float(slopes[low]), float(slopes[high]))


def blocked(context: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of up to BLOCK successive values at the same context; evenly thinned to MAX_POINTS."""
    x, y = [], []
    for part_x, part_y in _runs(context, value):
        for begin in range(0, len(part_x), BLOCK):
            if begin == 0 or len(part_x) - begin >= (BLOCK + 1) // 2:  # a short rest says little
                x.append(float(part_x[0]))
                y.append(float(np.median(part_y[begin : begin + BLOCK])))
    order = np.argsort(np.array(x), kind="stable")
    if len(order) > MAX_POINTS:
        order = order[np.linspace(0, len(order) - 1, MAX_POINTS).astype(int)]
    return np.array(x)[order], np.array(y)[order]


def _runs(context: np.ndarray, value: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    cuts = np.flatnonzero(np.diff(context)) + 1
    return list(zip(np.split(context, cuts), np.split(value, cuts), strict=True))


def _slope(context: np.ndarray, value: np.ndarray) -> Slope | None:
    if len(context) == 0 or context.max() - context.min() < MIN_RANGE:
        return None
    x, y = blocked(context, value)
    fitted = theil_sen(x, y) if len(x) >= MIN_POINTS else None
    if fitted is None:
        return None
    slope, intercept, (low, high) = fitted
    return Slope(
        ns_per_1000=slope * 1000,
        ci95=(low * 1000, high * 1000),
        at_least_ns=intercept + slope * float(context.min()),
        at_most_ns=intercept + slope * float(context.max()),
    )


def analyze(recording: Recording) -> Result:
    found = recording.columns(read_sql("drift_steps.sql"))
    context = np.asarray(np.ma.filled(found["n_kv"], 0), dtype=float)
    if len(context) == 0:
        return Result(Drift((), 0, 0, "", None, None, None, "The context is not known: no decode graph with a kq or "
                            "flash-attention operator was described."))  # fmt: skip
    tokens = np.asarray(np.ma.filled(found["tokens"], 0))
    duration = np.asarray(found["dur_ns"], dtype=float)
    attention = np.ma.filled(np.ma.asarray(found["attention_ns"]).astype(float), np.nan)
    level = np.asarray(found["level"], dtype=str)
    values, counts = np.unique(tokens, return_counts=True)
    usual = int(values[np.argmax(counts)])
    same = tokens == usual
    shallow = same & (level == "token")
    chosen, levels = (shallow, "token") if _enough(context[shallow]) else (same, "all")
    measured = same & ~np.isnan(attention)
    step = _slope(context[chosen], duration[chosen]) if _enough(context[chosen]) else None
    part = _slope(context[measured], attention[measured])
    share = None
    if step and part and step.ci95[0] > 0:
        share = float(min(1.0, max(0.0, part.ns_per_1000 / step.ns_per_1000)))
    section = Drift(
        points=_points(context, duration, attention, chosen, measured),
        steps=int(chosen.sum()),
        tokens_per_step=usual,
        levels=levels,
        step=step,
        attention=part if step else None,
        attention_share=share,
        reason="" if step else _why_not(context[chosen]),
    )
    return Result(section, _finding(section, context[chosen], duration[chosen]))


def _enough(context: np.ndarray) -> bool:
    return len(context) >= MIN_STEPS and context.max() - context.min() >= MIN_RANGE


def _why_not(context: np.ndarray) -> str:
    low, high = int(context.min()), int(context.max())
    if high - low < MIN_RANGE:
        seen = f"stays at {low}" if low == high else f"goes from {low} to {high}"
        return (
            f"The context hardly varies: the cache length that attention reads {seen} tokens (the engine pads it), "
            f"and growth needs a range of {MIN_RANGE}. Record longer generations or longer prompts."
        )
    return f"Too few decode steps ({len(context)}) over contexts from {low} to {high} tokens. Record longer."


def _points(
    context: np.ndarray, duration: np.ndarray, attention: np.ndarray, chosen: np.ndarray, measured: np.ndarray
) -> tuple[DriftPoint, ...]:
    points = []
    for value in np.unique(context[chosen]):
        times = duration[chosen & (context == value)]
        parts = attention[measured & (context == value)]
        low, middle, high = np.quantile(times, [0.1, 0.5, 0.9])
        points.append(
            DriftPoint(
                context=int(value),
                steps=len(times),
                step_p50_ns=float(middle),
                step_p10_ns=float(low),
                step_p90_ns=float(high),
                measured=len(parts),
                attention_p50_ns=float(np.median(parts)) if len(parts) else None,
            )
        )
    return tuple(points)


def _finding(section: Drift, context: np.ndarray, duration: np.ndarray) -> tuple[Finding, ...]:
    step = section.step
    if step is None or step.ci95[0] <= 0:
        return ()
    low, high, median = float(context.min()), float(context.max()), float(np.median(duration))
    growth = step.ns_per_1000 * (high - low) / 1000
    if growth < LARGE_SHARE * median:
        return ()
    share = section.attention_share
    evidence = [
        f"{step.ns_per_1000 / 1e3:.0f} µs per 1 000 tokens of context (95 %: {step.ci95[0] / 1e3:.0f} … "
        f"{step.ci95[1] / 1e3:.0f} µs)",
        f"{section.steps} decode steps at contexts from {low:.0f} to {high:.0f} tokens, by the padded cache length",
    ]
    if share is not None and section.attention:
        evidence.append(
            f"operators that read the cache grow by {section.attention.ns_per_1000 / 1e3:.0f} µs per 1 000 tokens: "
            f"{share * 100:.0f} % of the growth"
        )
    if share is None:
        advice = "Record with operators over the same range of contexts to see whether attention is what grows."
    elif share >= 0.5:
        advice = (
            "Attention over the KV cache is what grows: flash attention, a quantized cache (-ctk, -ctv), more threads "
            "or a shorter context make it cheaper."
        )
    else:
        advice = "Most of the growth is not attention: compare the operators of short and long contexts, and the clock."
    return (
        Finding(
            id="drift.context",
            claim=f"From {low:.0f} to {high:.0f} tokens of context a decode step becomes {growth / 1e6:.2f} ms longer, "
            f"{growth / median * 100:.0f} % of the median step",
            phase="decode",
            cost_ns_per_token=step.ns_per_1000 / 1000 * float(context.mean() - low) / section.tokens_per_step,
            confidence="high" if len(section.points) >= 4 and share is not None else "medium",
            evidence=tuple(evidence),
            advice=advice,
        ),
    )


ANALYZER = Analyzer("drift", "Growth with the context", (GRAPHS, STEPS), analyze)
