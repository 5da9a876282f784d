"""What each node lost to waits: threads off the processor, and imbalance at barriers. Part of verdicts.py.

Off the processor: stretches from the scheduler, laid over the operators on their pool's first thread (stalls.py). At
barriers: wall time less the threads' mean own work less the barrier's own cost, which is that of the quickest barriers
of the recording; what the stretches explain is taken off.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from flowprof.profiler.analyzers.slices import slices
from flowprof.profiler.stalls import lost, overlaps
from flowprof.profiler.store import Recording, read_sql

CHEAP_BARRIERS = 0.1  # the quantile, by calls, that is taken for the cost of a barrier alone
_CAUSES = {
    "runnable": "no processor: {by} ran instead",
    "fault": "pages of a mapped file read from disk",
    "disk": "uninterruptible sleep: disk or driver",
    "stopped": "stopped: SIGSTOP or a debugger",
    "sleeping": "asleep, woken by {by}",
}
SINGLE_SQL = """
SELECT pid FROM graph_exec WHERE level IN ('op', 'thread') GROUP BY pid HAVING count(DISTINCT tid) = 1
"""
_OWN = "its own threads"  # as verdict_away.sql names them

Node = tuple[int, int]  # graph_id, node_index


@dataclass(slots=True)
class Barrier:
    threads: int
    imbalance_ns: float  # per call


@dataclass(slots=True)
class Away:
    """Time that a node lost with a thread off the processor."""

    ns: float = 0.0
    causes: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # in words → ns


def barriers(recording: Recording) -> dict[Node, Barrier]:
    """Nodes that were seen at thread level."""
    rows = recording.rows(read_sql("verdict_barriers.sql"))
    cost = _cheap([(float(barrier), calls) for *_, calls, _, _, barrier in rows])
    return {
        (graph, node): Barrier(threads, max(0.0, float(wall) - float(work) - cost) if threads > 1 else 0.0)
        for graph, node, threads, _, wall, work, _ in rows
    }


def _cheap(barrier_and_calls: list[tuple[float, int]]) -> float:
    total, below = sum(calls for _, calls in barrier_and_calls), 0
    for barrier, calls in sorted(barrier_and_calls):
        below += calls
        if below >= total * CHEAP_BARRIERS:
            return barrier
    return 0.0


def away(recording: Recording) -> dict[Node, Away]:
    """Nodes that lost time. Empty, too, when the scheduler was not recorded."""
    found: dict[Node, Away] = defaultdict(Away)
    driver_of: dict[int, set[int]] = defaultdict(set)
    for driver, tid in recording.rows(read_sql("verdict_pools.sql")):
        driver_of[tid].add(driver)
    single = {pid for (pid,) in recording.rows(SINGLE_SQL)}
    for stretch in slices(recording):
        when = {"from_ns": stretch["from_ns"], "to_ns": stretch["to_ns"]}
        states = recording.columns(read_sql("verdict_away.sql"), when)
        if len(states["tid"]):
            which = {"first": stretch["first"], "last": stretch["last"]}
            calls = recording.columns(read_sql("verdict_calls.sql"), which)
            _laid_over(calls, states, driver_of, single, found)
    return dict(found)


def _laid_over(
    calls: dict[str, np.ndarray],
    states: dict[str, np.ndarray],
    driver_of: dict[int, set[int]],
    single: set[int],
    found: dict[Node, Away],
) -> None:
    for pid in np.unique(states["pid"]):
        for driver in np.unique(calls["tid"][calls["pid"] == pid]):
            tids = [tid for tid, pools in driver_of.items() if driver in pools] or [driver]
            if pid in single:  # whoever is in the pool of this process
                tids = np.unique(states["tid"][states["pid"] == pid]).tolist()
            mine = (calls["pid"] == pid) & (calls["tid"] == driver)
            theirs = (states["pid"] == pid) & np.isin(states["tid"], tids)
            _one_pool({name: column[mine] for name, column in calls.items()},
                      {name: column[theirs] for name, column in states.items()}, found)  # fmt: skip


def state(words: str) -> str:
    """The scheduler's state that a cause in words is about: runnable, fault, …; "" for none of ours."""
    return next((state for state, text in _CAUSES.items() if words.startswith(text.split("{by}")[0])), "")


def cause(causes: dict[str, float]) -> str:
    """The largest cause in words. Where a stranger takes a processor the pool's threads crowd on the others and get in
    each other's way: the stranger is named, too, when it has a tenth of that.
    """
    if not causes:
        return ""
    first, *others = sorted(causes, key=lambda words: -causes[words])
    own = _CAUSES["runnable"].format(by=_OWN)
    ending = _CAUSES["runnable"].split("{by}")[1]
    stranger = next((words for words in others if words.endswith(ending)), "")
    if first != own or not stranger or causes[stranger] < 0.1 * causes[own]:
        return first
    return f"{stranger.removesuffix(ending)} and {_OWN}{ending}"


def _one_pool(calls: dict[str, np.ndarray], states: dict[str, np.ndarray], found: dict[Node, Away]) -> None:
    operator, stretch, ns = overlaps(calls["start_ns"], calls["end_ns"], states["start_ns"], states["end_ns"])
    if not len(operator):
        return
    node = (calls["graph_id"].astype(np.int64) << 32) | calls["node_index"].astype(np.int64)
    loser, lost_ns = lost(operator, states["tid"][stretch].astype(np.int64), ns)
    nodes, place = np.unique(node[loser], return_inverse=True)
    for key, total in zip(nodes.tolist(), np.bincount(place, lost_ns).tolist(), strict=True):
        found[key >> 32, key & 0xFFFFFFFF].ns += total
    numbers: dict[tuple[str, str], int] = {}
    kind = np.array(
        [numbers.setdefault(why, len(numbers)) for why in zip(states["state"], states["by_comm"], strict=True)]
    )
    words = [_words(*why) for why in numbers]
    pairs, place = np.unique(node[operator] * len(words) + kind[stretch], return_inverse=True)
    for pair, total in zip(pairs.tolist(), np.bincount(place, ns).tolist(), strict=True):
        key, word = divmod(pair, len(words))
        found[key >> 32, key & 0xFFFFFFFF].causes[words[word]] += total


def _words(state: str, by: str) -> str:
    return _CAUSES.get(state, state or "off the processor").format(by=by or "another thread")
