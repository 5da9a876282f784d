"""Variables whose values differ: the critical ones (vProf, EuroSys'23).

Every variable that both sides sampled (`--watch`, manifests) is compared in up to three views (distributions.py). A
view counts when its blocks differ (Anderson and Darling's k-sample test; Benjamini and Hochberg's control of false
discoveries over all variables and views), its distributions are at least MIN_DISTANCE apart (Hellinger), and NOISE
times as far as any two quarters of the normal runs are. Of a variable the value is told, where that
counts, else the farthest of the other views.

Left out, for they differ between any two runs:

* addresses (the type, or the expression, says so; without a type: whole words of 8 bytes between 4 GiB and 128 TiB) are
  only asked whether they are null;
* numbers of the recording's own threads and processes;
* how far a counter got. Its step is compared; where it is read now and then that is the program's speed as well, and
  counts only from a factor of RATE on.

An id of another kind, the same throughout a run, cannot be told from a setting by one normal run; by several it can.

Order: cost × distance, where cost is by how much the operator or the resource of the variable's function grew; vProf's
cost × (1 - smallest discount). Variables whose function's cost is not known come behind those that cost more, by
distance; equally far ones by how few values the normal runs have (a setting is a likelier cause than what follows from
it), then by how much the median changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flowprof.profiler.diff import statistics
from flowprof.profiler.diff.distributions import (
    VIEWS,
    Series,
    View,
    anderson_darling,
    block_means,
    edges,
    hellinger,
    is_counter,
    noise,
    only_grows,
    shares,
    views,
)
from flowprof.profiler.diff.result import ResourceShift, Row, VariableShift
from flowprof.profiler.diff.side import Pair, Side
from flowprof.profiler.diff.steps.steps import Floats
from flowprof.profiler.store import Recording, read_sql

MIN_DISTANCE = 0.1
MIN_DURATION = 2.0  # samples, on either side: what changes as fast as it is read stays for as long as chance has it
NOISE = 1.5  # as far again as the normal runs are apart by half: a walk that happens to end elsewhere is not told
RATE = 2.0
MAX_VARIABLES = 2_000
SHOWN = 5  # names in a note
MAX_SAMPLES = 1_000_000  # of one variable in one recording, the first
_BELOW, _ABOVE = 0.05, 0.05  # of the normal range, beyond which a value is outside
_LOW, _HIGH, _WORD = 1 << 32, 1 << 47, 8
_VARIABLES_SQL = """
SELECT v.variable_id, coalesce(r.manifest, ''), coalesce(r.name, ''), coalesce(v.function, ''), coalesce(v.name, ''),
       coalesce(v.expression, ''), coalesce(v.type, ''), coalesce(v.source, '')
FROM variable v LEFT JOIN resource r USING (resource_id) ORDER BY v.variable_id LIMIT $limit
"""
_COUNT_SQL = "SELECT count(*) FROM variable"
_NAMES_SQL = """
SELECT coalesce(nullif(v.name, ''), expression, '?') || coalesce(' in ' || nullif(function, ''), ' of ' || r.name, '')
FROM (FROM variable ORDER BY variable_id LIMIT $limit) v LEFT JOIN resource r USING (resource_id)
WHERE variable_id IN (SELECT variable_id FROM variable_sample WHERE value IS NOT NULL)
"""
_THREADS_SQL = "SELECT tid FROM thread WHERE tid > 0 UNION SELECT pid FROM process WHERE pid > 0"

_OPERATOR = re.compile(r"compute_forward_(\w+)|\b_ops::(\w+)")  # ggml's functions are called so, and torch's

Key = tuple[str, str, str, str]  # manifest, resource, function, name


@dataclass(slots=True)
class Sampled:
    """A variable on one side. series: one for each recording that sampled it; began_ns: of each recording."""

    series: list[Series]
    began_ns: list[int]
    type: str
    expression: str
    source: str
    threads: list[set[int]]


@dataclass(frozen=True, slots=True)
class Different:
    """A view of a variable on both sides."""

    key: Key
    view: str
    a: list[View]
    b: list[View]
    p: float
    distance: float
    noise: float
    counter: bool


def shifts(pair: Pair, rows: Sequence[Row], waiting: Sequence[ResourceShift]) -> tuple[VariableShift, ...]:
    """The variables that differ, the likeliest to matter first. rows, waiting: of the same diff."""
    a, b = _read(pair.a), _read(pair.b)
    best = differing(a, b)
    if not best:
        return ()
    found = [_shift(one, level, a[key], b[key], _cost(key, rows, waiting)) for key, (one, level) in best.items()]
    return tuple(sorted(found, key=_rank))


def notes(pair: Pair) -> tuple[str, ...]:
    """What was sampled and is not compared: on one side only, or beyond the first MAX_VARIABLES of a recording."""
    names, found = [], []
    for side in (pair.a, pair.b):
        mine: set[str] = set()
        for recording in side.recordings:
            count = int(recording.rows(_COUNT_SQL)[0][0])
            if count > MAX_VARIABLES:
                file = Path(recording.path).name
                found.append(f"of the {count} variables in {file} the first {MAX_VARIABLES} are compared")
            mine |= {str(name) for (name,) in recording.rows(_NAMES_SQL, {"limit": MAX_VARIABLES})}
        names.append(mine)
    for name, only in (("normal", names[0] - names[1]), ("other", names[1] - names[0])):
        if only:
            shown = ", ".join(sorted(only)[:SHOWN]) + (f" and {len(only) - SHOWN} more" if len(only) > SHOWN else "")
            found.append(f"only the {name} side sampled {shown}: not compared")
    return tuple(found)


def differing(a: Mapping[Key, Sampled], b: Mapping[Key, Sampled]) -> dict[Key, tuple[Different, float]]:
    """Of every variable that differs the view that tells it, and its q."""
    compared = [one for key in a if key in b for one in _compare(key, a[key], b[key])]
    if not compared:
        return {}
    q = statistics.adjusted(np.array([one.p for one in compared]))
    best: dict[Key, tuple[Different, float]] = {}
    for one, level in zip(compared, q.tolist(), strict=True):
        counts = level < statistics.LEVEL and one.distance >= MIN_DISTANCE and one.distance > NOISE * one.noise
        other = best.get(one.key)
        if counts and not _is_only_speed(one) and (other is None or _tells_more(one, other[0])):
            best[one.key] = one, level
    return best


def _read(side: Side) -> dict[Key, Sampled]:
    found: dict[Key, Sampled] = {}
    for recording in side.recordings:
        numbers: dict[Key, list[int]] = {}
        said: dict[Key, tuple[str, str, str]] = {}
        for number, *key, expression, kind, source in recording.rows(_VARIABLES_SQL, {"limit": MAX_VARIABLES}):
            manifest, resource, function, name = key
            numbers.setdefault((manifest, resource, function, name), []).append(number)
            said.setdefault((manifest, resource, function, name), (kind, expression, source))
        threads = {int(tid) for (tid,) in recording.rows(_THREADS_SQL)} if numbers else set()
        began = recording.meta().get("started_ns", "")
        for known, of in numbers.items():
            series = _series(recording, of)
            if not len(series.value):
                continue
            one = found.setdefault(known, Sampled([], [], *said[known], []))
            one.series.append(series)
            first = int(series.at_ns.min())  # some come before the clock is looked at
            one.began_ns.append(min(int(began), first) if began.isdecimal() else first)
            one.threads.append(threads)
    return found


def _series(recording: Recording, numbers: list[int]) -> Series:
    read = recording.columns(read_sql("diff_samples.sql"), {"numbers": numbers, "limit": MAX_SAMPLES})
    columns = {name: np.ma.getdata(column) for name, column in read.items()}
    order = np.lexsort((columns["at_ns"], columns["thread"]))
    return Series(
        columns["at_ns"][order].astype(np.int64), columns["thread"][order].astype(np.int64),
        columns["value"][order].astype(float),
    )  # fmt: skip


def _compare(key: Key, a: Sampled, b: Sampled) -> list[Different]:
    if all(_are_threads(side) for side in (a, b)):
        return []
    if _are_addresses(a) and _are_addresses(b):
        a, b = (replace(side, series=[replace(s, value=(s.value != 0) * 1.0) for s in side.series]) for side in (a, b))
    every = [one for side in (a, b) for one in side.series]
    counters = [is_counter(one) for one in every]  # it may have become too slow to be known for one
    counter = any(counters) and all(known or only_grows(one) for known, one in zip(counters, every, strict=True))
    a_views, b_views = ([views(one, counter) for one in side.series] for side in (a, b))
    found = []
    for view in VIEWS:
        normal, other = ([one[view] for one in side if view in one] for side in (a_views, b_views))
        sizes = view == "delta" and not counter
        a_blocks, b_blocks = (
            np.concatenate([np.zeros(0), *(block_means(np.abs(q) if sizes else q) for _, q in side)])
            for side in (normal, other)
        )
        if min(len(a_blocks), len(b_blocks)) < statistics.MIN_BLOCKS:
            continue
        a_all, b_all = _all(normal), _all(other)
        if a_all.min() == b_all.min() == a_all.max() == b_all.max():
            continue  # there is nothing to test
        if view == "duration" and max(a_all.mean(), b_all.mean()) < MIN_DURATION:
            continue
        bins = edges((a_all, b_all))
        found.append(
            Different(
                key, view, normal, other, anderson_darling(a_blocks, b_blocks),
                hellinger(shares(a_all, bins), shares(b_all, bins)), noise([q for _, q in normal], bins), counter,
            )
        )  # fmt: skip
    return found


def _tells_more(one: Different, other: Different) -> bool:
    return other.view != "value" and one.distance > other.distance


def _is_only_speed(one: Different) -> bool:
    """The step of a counter that is read now and then, and differs no more than two runs' speed may."""
    if not one.counter or one.key[2]:
        return False
    a, b = float(_all(one.a).mean()), float(_all(one.b).mean())
    return min(a, b) > 0 and max(a, b) < RATE * min(a, b)


def _are_addresses(side: Sampled) -> bool:
    if side.type or side.expression.rstrip(") ").endswith(":ptr"):
        return side.type.rstrip().endswith(("*", "&")) or not side.type
    values = np.concatenate([one.value for one in side.series])
    values = values[values != 0]
    return bool(len(values)) and bool(((values >= _LOW) & (values < _HIGH) & (values % _WORD == 0)).mean() > 0.9)


def _are_threads(side: Sampled) -> bool:
    return all(
        set(np.unique(one.value).tolist()) <= threads for one, threads in zip(side.series, side.threads, strict=True)
    )


def _shift(one: Different, q: float, a: Sampled, b: Sampled, cost: float | None) -> VariableShift:
    _, resource, function, name = one.key
    a_all, b_all = _all(one.a), _all(one.b)
    bins = edges((a_all, b_all))
    low, high = float(a_all.min()), float(a_all.max())
    since = None
    if len(one.b) == 1:
        at, quantity = one.b[0]
        outside = np.flatnonzero((quantity < low - _BELOW * abs(low)) | (quantity > high + _ABOVE * abs(high)))
        since = int(at[outside[0]]) - b.began_ns[0] if len(outside) else None
    return VariableShift(
        name=name, function=function or resource, source=b.source or a.source, view=one.view,
        a_range=(low, high), b_range=(float(b_all.min()), float(b_all.max())),
        a_median=float(np.median(a_all)), b_median=float(np.median(b_all)), distance=one.distance, q=q, since_ns=since,
        cost_ns_per_token=cost, a_values=_picture(a_all, bins), b_values=_picture(b_all, bins),
    )  # fmt: skip


def _picture(quantity: Floats, bins: Floats) -> tuple[tuple[float, float], ...]:
    """The middle of every bin that is not empty, as its median, and its share."""
    place = np.searchsorted(bins, quantity, side="right") - 1
    found = []
    for at, share in enumerate(shares(quantity, bins).tolist()):
        if share:
            found.append((float(np.median(quantity[place == at])), share))
    return tuple(found)


def _cost(key: Key, rows: Sequence[Row], waiting: Sequence[ResourceShift]) -> float | None:
    """By how much what the variable belongs to grew, ns per token of the first phase; None: that is not known."""
    _, resource, function, _ = key
    for shift in waiting:
        if shift.resource == resource and shift.per == "token" and None not in (shift.a_waiting_ns, shift.b_waiting_ns):
            return (shift.b_waiting_ns or 0.0) - (shift.a_waiting_ns or 0.0)
    operator = _OPERATOR.search(function)
    if operator is None or not rows:
        return None
    named = (operator[1] or operator[2]).upper()
    mine = {row.op for row in rows if row.op and f"{named}_".startswith(f"{row.op.rpartition('::')[2].upper()}_")}
    exact = max(mine, key=len, default="")  # MUL_MAT_ID is not MUL_MAT
    tied = [row for row in rows if row.op == exact and row.phase == rows[0].phase] if exact else []
    return sum(row.delta_ns_per_token for row in tied) if tied else None


def _rank(shift: VariableShift) -> tuple[float, ...]:
    cost = shift.cost_ns_per_token
    group = 1 if cost is None else 0 if cost > 0 else 2
    ratio = abs(np.log((abs(shift.b_median) + 1e-9) / (abs(shift.a_median) + 1e-9)))
    worth = -round(shift.distance, 2) * (cost if group == 0 and cost else 1)
    return group, worth, len(shift.a_values), -float(ratio)


def _all(of: Sequence[View]) -> Floats:
    return np.concatenate([quantity for _, quantity in of])
