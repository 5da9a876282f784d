"""Whether both sides were measured alike (probe levels, flowprof's own cost, losses), and are two recordings at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flowprof.profiler.analyzers import losses, overhead
from flowprof.profiler.diff.comparability import known, machine_state
from flowprof.profiler.diff.result import Difference
from flowprof.profiler.diff.side import Pair
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.sections.overhead import Overhead
from flowprof.profiler.store import Recording

COST_TOLERANCE = 0.01  # of the target's time: so much may flowprof's own cost differ
NEIGHBOURS_TOLERANCE = 0.1  # of one processor
DEEP_SQL = """
SELECT sum(end_ns - start_ns) FILTER (level IN ('op', 'thread')) / sum(end_ns - start_ns) FROM probe_window
WHERE end_ns > start_ns
"""
NEIGHBOURS_SQL = "SELECT coalesce(sum(cpu_ns), 0) FROM neighbour"


def differences(pair: Pair) -> list[Difference]:
    """What differs in how the sides were measured."""
    sides = pair.a.recordings, pair.b.recordings
    windows = pair.b.name == "after"  # of one recording: meant to be of one
    return [
        *([] if windows else [_twice(sides)]),
        _losses(sides),
        _cost(sides),
        known.words("probe levels", known.each(sides, _levels), 0.1, "deeper probes cost more"),
        _means("deep probes", sides, _deep, "of the time", 0.1, 0.1,
               "times of operators come from the deep windows, which are slower by flowprof's own cost"),
        *([] if windows else [  # counted over the whole recording
            _means("other programs", sides, _neighbours, "processors used", NEIGHBOURS_TOLERANCE, 0.2,
                   "other programs of the host used more or less of its processors meanwhile"),
            *machine_state.differences(sides)]),
        known.words("flowprof", known.each(sides, lambda one: one.meta().get("flowprof_version", "")), 0.1,
                    "another flowprof may time or name things another way"),
    ]  # fmt: skip


def _twice(sides: known.Sides) -> Difference:
    """A recording that is given twice is its own repeat: it would say that nothing differs, or how little is noise."""
    a, b = known.each(sides, identity)
    everything = [one for one in (*a, *b) if one]
    if len(set(everything)) < len(everything):
        twice = "one recording stands on both sides: record the other side, too"
        if not set(a) & set(b) - {""}:
            twice = "one recording is given twice as a repeat: it would make the noise look small"
        names = known.each(sides, lambda one: Path(one.path).name)
        return known.difference("recordings", True, (", ".join(names[0]), ", ".join(names[1])), known.FORBIDS, twice)
    told = str(len(a)), str(len(b))
    if len(everything) < len(a) + len(b):
        return known.unknown("recordings", told, "not all say when they began: they may be one")
    return Difference("recordings", "same", *told, 0.0, "")


def identity(recording: Recording) -> str:
    """When and on which boot it began; an import has the time of its trace. Copies of a file have the same."""
    meta = recording.meta()
    if not meta.get("started_ns"):
        return ""
    return " ".join(meta.get(key, "") for key in ("boot_id", "started_ns", "stopped_ns", "imported_file"))


def _losses(sides: known.Sides) -> Difference:
    a, b = (max(shares) for shares in known.each(sides, _lost))
    told = _share(a), _share(b)
    if max(a, b) > losses.LIMIT:
        why = f"more than {losses.LIMIT * 100:g} % is missing, and rarely evenly: record again with fewer --levels"
        return known.difference("losses", True, told, known.FORBIDS, why)
    return known.difference(
        "losses", abs(a - b) > losses.LIMIT / 2, told, 0.1, "steps that lost an operator are left out"
    )


def _lost(recording: Recording) -> float:
    found = losses.analyze(recording).value
    return found.share if isinstance(found, Losses) else 0.0


def _share(lost: float) -> str:
    return f"{known.figure(lost * 100)} % of events" if lost else "none"


def _cost(sides: known.Sides) -> Difference:
    """Of the sides' means; different only where the intervals are apart, for the figure is itself an estimate."""
    what = "flowprof's own cost"
    a, b = ([one for one in side if one is not None] for side in known.each(sides, _overhead))
    told = tuple(f"{_mean([one[0] for one in side]) * 100:+.1f} %" if side else "" for side in (a, b))
    if not a or not b:
        return known.unknown(what, (told[0], told[1]))
    (mean_a, low_a, high_a), (mean_b, low_b, high_b) = (
        [_mean(part) for part in zip(*side, strict=True)] for side in (a, b)
    )
    apart = abs(mean_a - mean_b) > COST_TOLERANCE and (low_a > high_b or low_b > high_a)
    why = (
        f"up to {abs(mean_a - mean_b) * 100:.1f} % of what operators differ by is flowprof's own (phases are compared "
        "at one mix of probe levels): record both sides alike"
    )
    return known.difference(what, apart, (told[0], told[1]), 0.3, why)


def _overhead(recording: Recording) -> tuple[float, float, float] | None:
    """Slow-down and its interval; None where it is not measurable."""
    found = overhead.ANALYZER.run(recording).value
    if not isinstance(found, Overhead) or found.ratio is None or found.ci95 is None:
        return None
    return found.ratio - 1, found.ci95[0] - 1, found.ci95[1] - 1


def _levels(recording: Recording) -> str:
    meta = recording.meta()
    if not meta.get("levels"):
        return ""
    depth = "always" if meta.get("full") in ("yes", "true") else f"budget {meta.get('budget') or 'unknown'}"
    counters = f", counters {meta['counters']}" if meta.get("counters") else ""
    return f"{meta['levels']} ({depth}{counters})"


def _means(
    what: str, sides: known.Sides, read: Callable[[Recording], float | None], unit: str, tolerance: float,
    weight: float, why: str,
) -> Difference:  # fmt: skip
    """Means that differ by more than `tolerance`, in the figure's own unit."""
    a, b = ([one for one in side if one is not None] for side in known.each(sides, read))
    told = f"{_mean(a):.2f} {unit}" if a else "", f"{_mean(b):.2f} {unit}" if b else ""
    if not a or not b:
        return known.unknown(what, told)
    return known.difference(what, abs(_mean(a) - _mean(b)) > tolerance, told, weight, why)


def _deep(recording: Recording) -> float | None:
    """How much of the time deep probes were in place: what the budget allowed."""
    share = recording.rows(DEEP_SQL)[0][0]
    return None if share is None else float(share)


def _neighbours(recording: Recording) -> float | None:
    """Processors that other processes used on average; None where nobody looked."""
    meta = recording.meta()
    began, ended = (meta.get(key, "") for key in ("started_ns", "stopped_ns"))
    if meta.get("sched") != "yes" or not (began.isdecimal() and ended.isdecimal()) or int(ended) <= int(began):
        return None
    return float(recording.rows(NEIGHBOURS_SQL)[0][0]) / (int(ended) - int(began))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
