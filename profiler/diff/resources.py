"""Waiting for resources of the application on both sides.

From the same waits and holds as the report's resource section (profiler/blame), and a server's batches and slots, which
need no manifest (request_waits.py). A recording is cut into WINDOWS at the
beginnings of graphs, each with the tokens that passed through in it; where no graph ran on either side, into stretches
of equal length, and times are per second. A wait counts in every window that it reaches into, by the part of it there.
Blocks, test and noise are those of the operators (statistics.py): Mann and Whitney over blocks of windows, and the
change exceeds what the normal runs' own parts differ by.

A wait that nothing ended counts to the end. A resource that was given up before the end counts as not recorded. Losses
that withhold verdicts withhold a shift's significance, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler.analyzers import losses
from flowprof.profiler.blame import thresholds
from flowprof.profiler.blame.reading import read
from flowprof.profiler.blame.study import Study, study
from flowprof.profiler.diff import request_waits, statistics
from flowprof.profiler.diff.request_waits import Waited
from flowprof.profiler.diff.result import ResourceShift
from flowprof.profiler.diff.side import Pair, Side, span
from flowprof.profiler.diff.steps.steps import Floats, Ints
from flowprof.profiler.sections.losses import Losses
from flowprof.profiler.store import Recording

WINDOWS = 192  # of one recording: six in each of the most blocks
BUILT_IN = (request_waits.BATCH, request_waits.SLOT)  # every server has them: told where there is waiting to speak of
_RESOURCES_SQL = "SELECT count(*) FROM resource"
_REQUESTS_SQL = "SELECT (SELECT count(*) FROM request) + (SELECT count(*) FROM slot_token)"
_TOKENS_SQL = (
    "SELECT start_ns, greatest(coalesce(tokens, 1), 1) AS tokens FROM graph_duration ORDER BY start_ns LIMIT 5000000"
)
_Key = tuple[str, str]  # manifest, resource


@dataclass(frozen=True, slots=True)
class _Run:
    """One recording. start_ns, tokens: of its graphs, by start."""

    found: dict[_Key, Waited]
    span_ns: tuple[int, int]
    start_ns: Ints
    tokens: Ints
    withheld: bool


def shifts(pair: Pair) -> tuple[ResourceShift, ...]:
    """Every resource that somebody waited for or held on either side, the most added waiting first."""
    a, b = _runs(pair.a), _runs(pair.b)
    if not a or not b:
        return ()
    per = "token" if all(len(one.tokens) for one in (*a, *b)) else "s"
    keys = list(dict.fromkeys(
        key for one in (*a, *b) for key, waited in one.found.items() if key not in BUILT_IN or waited.long
    ))  # fmt: skip
    if not keys:
        return ()
    a_waiting, b_waiting = ([_windows(one, keys, per, False) for one in side] for side in (a, b))
    normal = statistics.blocks(a_waiting)
    tested = statistics.test(normal, statistics.blocks(b_waiting, above=normal.limit), intervals=False)
    counts = statistics.significant(tested, statistics.adjusted(tested.p)) & ~any(one.withheld for one in (*a, *b))
    waiting = _means(a_waiting), _means(b_waiting)
    hold = tuple(_means([_windows(one, keys, per, True) for one in side]) for side in (a, b))
    there = [[any(key in one.found for one in side) for key in keys] for side in (a, b)]
    found = []
    for at, key in enumerate(keys):
        told = there[0][at], there[1][at]
        figures = [[float(values[at]) if known else None for values, known in zip(both, told, strict=True)]
                   for both in (waiting, hold)]  # fmt: skip
        if any(map(any, figures)):
            found.append(
                ResourceShift(
                    resource=key[1], per=per, a_waiting_ns=figures[0][0], b_waiting_ns=figures[0][1],
                    a_hold_ns=figures[1][0], b_hold_ns=figures[1][1], holder=_holder(b, key),
                    significant=bool(counts[at]) and all(told),
                )
            )  # fmt: skip
    return tuple(sorted(found, key=lambda one: -((one.b_waiting_ns or 0.0) - (one.a_waiting_ns or 0.0))))


def _runs(side: Side) -> list[_Run]:
    return [run for recording in side.recordings if (run := _run(recording)) is not None]


def _run(recording: Recording) -> _Run | None:
    """None where neither resources nor requests were recorded."""
    waited = recording.rows(_RESOURCES_SQL)[0][0] > 0
    if not waited and not recording.rows(_REQUESTS_SQL)[0][0]:
        return None
    found, span_ns = _studied(recording) if waited else ({}, span(recording))
    lost = losses.analyze(recording).value
    columns = recording.columns(_TOKENS_SQL)
    return _Run(
        {**request_waits.read(recording), **found}, span_ns,
        np.ma.getdata(columns["start_ns"]).astype(np.int64), np.ma.getdata(columns["tokens"]).astype(np.int64),
        isinstance(lost, Losses) and lost.events_withheld,
    )  # fmt: skip


def _studied(recording: Recording) -> tuple[dict[_Key, Waited], tuple[int, int]]:
    """Every resource of a manifest, and from when to when its events are."""
    seen = study(read(recording), thresholds.of(recording))
    events = seen.events
    found = {}
    for number, one in enumerate(events.resources):
        if one.until_ns is not None:
            continue  # what came later is not known
        stretches = []
        for rows in (seen.waits, seen.held):
            mine = events.resource[rows.place] == number if len(rows.place) else np.zeros(0, bool)
            stretches.append((rows.start_ns[mine], rows.end_ns[mine]))
        found[one.manifest, one.name] = Waited(stretches[0], stretches[1], _blamed(seen, number))
    return found, (events.begin_ns, events.begin_ns + events.span_ns)


def _blamed(seen: Study, resource: int) -> dict[str, float]:
    """Who held it while others waited → ns."""
    found: dict[str, float] = {}
    for place in seen.waited_places(0.0):
        if seen.where(place).resource == resource:
            by_actor = seen.view(place).blame.by_actor
            for actor, ns in zip(by_actor.actor.tolist(), by_actor.ns.tolist(), strict=True):
                name = seen.events.actors[actor].name
                found[name] = found.get(name, 0.0) + ns
    return found


def _windows(run: _Run, keys: list[_Key], per: str, held: bool) -> tuple[Floats, Ints]:
    """ns of every window and resource (n, m), and the windows' tokens (n,): of waiting, or of holding.

    Per second the tokens are microseconds, and ns are multiplied alike: ns per second.
    """
    begin_ns, end_ns = run.span_ns
    if per == "token":
        begins = statistics.cut(run.tokens, min(WINDOWS, len(run.tokens)))
        corners = np.append(run.start_ns[begins], max(end_ns, int(run.start_ns[-1]) + 1))
        weight = np.add.reduceat(run.tokens, begins)
    else:
        corners = np.linspace(begin_ns, max(end_ns, begin_ns + WINDOWS), WINDOWS + 1).astype(np.int64)
        weight = np.maximum(np.diff(corners) // 1000, 1)
    ns = np.zeros((len(weight), len(keys)))
    for at, key in enumerate(keys):
        if key in run.found:
            start_ns, until_ns = run.found[key].held if held else run.found[key].waits
            ns[:, at] = np.diff(_until(start_ns, until_ns, corners))
    return (ns if per == "token" else ns * 1e6), weight


def _until(start_ns: Ints, end_ns: Ints, moments: Ints) -> Floats:
    """How much of the stretches [start, end) lies before each moment, added up, ns."""

    def before(edges: Ints) -> Floats:
        edges = np.sort(edges)
        count = np.searchsorted(edges, moments)
        sums = np.concatenate(([0], np.cumsum(edges - moments[0])))
        found: Floats = (count * (moments - moments[0]) - sums[count]).astype(float)
        return found

    return before(start_ns) - before(end_ns)


def _means(runs: list[tuple[Floats, Ints]]) -> Floats:
    """ns per token over all windows; (m,)."""
    total: Floats = sum(ns.sum(axis=0) for ns, _ in runs) / max(sum(int(weight.sum()) for _, weight in runs), 1)
    return total


def _holder(runs: list[_Run], key: _Key) -> str:
    """Who held most of it while others waited; "" where nobody is seen to."""
    blamed: dict[str, float] = {}
    for run in runs:
        for name, ns in run.found[key].blamed.items() if key in run.found else ():
            blamed[name] = blamed.get(name, 0.0) + ns
    worst = max(blamed, key=lambda name: blamed[name], default="")
    return worst if worst and blamed[worst] > 0 else ""
