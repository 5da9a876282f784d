"""What stands beside a verdict: the picture over time, variables at the moment, stacks, and stretches for wakers."""

from __future__ import annotations

import numpy as np
from flowprof.profiler.blame.events import Bools, Events, Ints, Small
from flowprof.profiler.blame.metrics import gap
from flowprof.profiler.blame.occupancy import shares
from flowprof.profiler.blame.over_time import LANES, STEPS, level, means
from flowprof.profiler.blame.study import Study
from flowprof.profiler.blame.unwaited import MAX_PLACES
from flowprof.profiler.blame.verdict import Verdict
from flowprof.profiler.root_causes import Stretches, slept
from flowprof.profiler.sections.resources import Moment, Picture
from flowprof.profiler.store import Recording

MAX_VARIABLES = 6
MAX_FRAMES = 12
_STATES_SQL = """
SELECT tid, start_ns, end_ns, state, coalesce(by_tid, 0) AS by_tid FROM thread_state
WHERE end_ns > start_ns AND start_ns BETWEEN 0 AND 4000000000000000000 AND end_ns < 4000000000000000000
"""
_SAMPLES_SQL = """
SELECT v.variable_id, coalesce(v.name, ''), coalesce(v.source, ''), s.at_ns, s.value
FROM variable_sample s JOIN variable v USING (variable_id)
WHERE s.value IS NOT NULL AND isfinite(s.value) AND (v.resource_id IS NULL OR v.resource_id = $resource)
ORDER BY v.variable_id, s.at_ns
"""
_FRAMES_SQL = """
SELECT stack_id, frame, coalesce(function, module || '+0x' || to_hex(address), '?'), coalesce(source, '')
FROM stack WHERE list_contains($stacks, stack_id) AND frame < $most ORDER BY stack_id, frame
"""


def picture(study: Study, verdict: Verdict) -> Picture:
    """Units held, waiters, and the holders' lanes, in STEPS equal steps."""
    events = study.events
    edges = np.linspace(events.begin_ns, int(events.ends_ns[verdict.resource]), STEPS + 1)
    step = float(edges[1] - edges[0]) or 1.0
    if verdict.place >= 0:
        view = study.view(verdict.place)
        seen = view.seen
        occupancy = means(seen.at_ns, seen.units, edges)
        waiters = means(seen.at_ns, seen.waiters, edges)
        ranked, held = view.blame.by_actor, view.held
    else:
        at, units = gap(study, verdict.resource)
        occupancy = means(at, units.astype(np.float64), edges)
        waiters = np.zeros(STEPS)
        own = events.resource[study.held.place] == verdict.resource
        held = study.held.of(own)
        ranked = shares(held.actor, (held.units * (held.end_ns - held.start_ns)).astype(np.float64))
    named = [verdict.holder] if verdict.holder is not None and ranked.of(verdict.holder) else []
    lanes = []
    for actor in (named + [one for one in ranked.actor[: LANES + 1].tolist() if one not in named])[:LANES]:
        mine = held.actor == actor
        lane = means(*level(held.start_ns[mine], held.end_ns[mine], held.units[mine]), edges)
        lanes.append((events.actors[actor].name, tuple(lane.tolist())))
    return Picture(step, tuple(occupancy.tolist()), tuple(waiters.tolist()), tuple(lanes))


def moments(recording: Recording, study: Study, verdict: Verdict) -> tuple[Moment, ...]:
    """The resource's variables when it was worst, those out of their usual range first."""
    rows = recording.columns(_SAMPLES_SQL, {"resource": study.events.resources[verdict.resource].resource_id})
    number, at = np.ma.getdata(rows["variable_id"]), np.ma.getdata(rows["at_ns"])
    value = np.ma.getdata(rows["value"])
    names, sources = list(rows.values())[1], list(rows.values())[2]
    calm = np.ones(len(at), bool)
    if verdict.place >= 0:
        seen = study.view(verdict.place).seen
        row = np.searchsorted(seen.at_ns, at, side="right") - 1
        calm = (row < 0) | ~seen.counts[np.maximum(row, 0)] if len(seen.counts) else calm
    below, above = (study.thresholds.of("variables", name) for name in ("below", "above"))
    found = []
    for one in np.unique(number).tolist():
        mine = np.flatnonzero(number == one)
        before = mine[at[mine] <= verdict.at_ns]
        now = float(value[before[-1] if len(before) else mine[0]])
        usual = value[mine[calm[mine]]] if calm[mine].sum() >= 5 else value[mine]
        low, high = float(usual.min()), float(usual.max())
        unusual = bool(now < min(below * low, above * low) or now > max(above * high, below * high))
        found.append(
            Moment(str(names[mine[0]]), now, float(np.median(usual)), low, high, str(sources[mine[0]]), unusual)
        )
    found.sort(key=lambda moment: not moment.unusual)
    return tuple(found[:MAX_VARIABLES])


def stacks(recording: Recording, wanted: list[int]) -> dict[int, list[tuple[str, str]]]:
    """Frames (function, source) from the innermost outwards, by stack."""
    found: dict[int, list[tuple[str, str]]] = {}
    for stack, _, function, source in recording.rows(_FRAMES_SQL, {"stacks": wanted, "most": MAX_FRAMES}):
        found.setdefault(stack, []).append((function, source))
    return found


def stretches(recording: Recording, study: Study) -> tuple[Stretches, Ints]:
    """What threads waited through, and of each the resource that they waited for, -1: none.

    From the scheduler where it was recorded; else the waits for resources themselves, ended by the thread that last
    held what was waited for. A wait for a queue that is idle does not hold up anybody, and is left out; so is one for
    what another thread hands out, unless that one is busy meanwhile (a worker waits for work, a client for an answer).
    """
    events = study.events
    tid = events.actors.tid
    thread = tid[events.thread[study.waits.event]] if len(study.waits.event) else np.empty(0, np.int64)
    resource = _resource(study, study.waits.place)
    handed, counts = study.held.handed[study.waits.place], _holds_up(study)
    rows = recording.columns(_STATES_SQL)
    if len(rows["tid"]):
        tids, start, end, by = (
            np.asarray(np.ma.getdata(rows[name]), np.int64) for name in ("tid", "start_ns", "end_ns", "by_tid")
        )
        found = Stretches(tids, start, end, np.asarray(rows["state"], np.str_), by).sorted()

        def labelled(which: Bools) -> Ints:
            some = study.waits.of(which)
            return _labels(found, thread[which], some.start_ns, some.end_ns, resource[which])

        label, given, idle = labelled(counts & ~handed), labelled(handed), labelled(~counts & ~handed)
        busy = _wakers_are_busy(found, given >= 0)
        label = np.where((label < 0) & busy, given, label)
        kept = (label >= 0) | ((idle < 0) & (given < 0))
        return found.of(kept), label[kept]
    counts &= ~handed
    waits, waiting = study.waits.of(counts), thread[counts]
    by = np.zeros(len(waiting), np.int64)
    for place in np.unique(waits.place).tolist():
        mine = np.flatnonzero(waits.place == place)
        held = study.held.of(study.held.place == place)
        if not len(held.end_ns):
            continue
        order = np.argsort(held.end_ns, kind="stable")
        last = np.searchsorted(held.end_ns[order], waits.end_ns[mine], side="right") - 1
        holder = tid[events.thread[held.acquire[order[np.maximum(last, 0)]]]]
        by[mine] = np.where(last >= 0, holder, 0)
    known = by != 0
    state = np.full(len(waiting), "sleeping")
    found = Stretches(waiting, waits.start_ns, waits.end_ns, state, by).of(known)
    return found, _resource(study, waits.place)[known]


def _resource(study: Study, place: Small) -> Ints:
    of = study.events.resource
    found: Ints = of[place].astype(np.int64) if len(of) else place.astype(np.int64)
    return found


def _holds_up(study: Study) -> Bools:
    """Waits that count for at least half of their length; those of places with little waiting do not.

    Where nothing is ever given back (a barrier) nobody holds what others wait for: there every wait counts.
    """
    counts = np.zeros(len(study.waits.place), bool)
    for place in study.waited_places(study.thresholds.of("wakers", "place_share"))[:MAX_PLACES]:
        view = study.view(place)
        meets = study.resource(place).kind != "queue" and not study.is_released(place)
        counts[study.waits.place == place] = meets | (2 * view.blame.by_wait >= view.waits.ns)
    return counts


def _wakers_are_busy(found: Stretches, which: Bools) -> Bools:
    """Of some stretches (sorted by thread and start) whether who ended them did not sleep through half of them."""
    which = which & (found.by_tid > 0)
    busy: Bools = which & (2 * slept(found, found, which) < found.end_ns - found.start_ns)
    return busy


def _labels(found: Stretches, waiting: Ints, start_ns: Ints, end_ns: Ints, resource: Ints) -> Ints:
    """The resource for which a thread waited during most of a sleep; of nested waits the innermost."""
    label = np.full(len(found.tid), -1, np.int64)
    for tid in np.intersect1d(found.tid, waiting).tolist():
        mine, asked = np.flatnonzero(found.tid == tid), np.flatnonzero(waiting == tid)
        last = np.searchsorted(start_ns[asked], (found.start_ns[mine] + found.end_ns[mine]) // 2, side="right") - 1
        wait = asked[np.maximum(last, 0)]
        inside = np.minimum(found.end_ns[mine], end_ns[wait]) - np.maximum(found.start_ns[mine], start_ns[wait])
        most = (
            (last >= 0) & (2 * inside >= found.end_ns[mine] - found.start_ns[mine]) & (found.state[mine] == "sleeping")
        )
        label[mine[most]] = resource[wait[most]]
    return label


def acquire_stack(events: Events, verdict: Verdict) -> int:
    """The stack of the event that shows where the holder acquired; -1: none was taken."""
    return int(events.stack[verdict.event]) if verdict.event >= 0 else -1
