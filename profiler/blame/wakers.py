"""Who waits for whom, from the scheduler's wake-ups and waits for resources: the bottleneck is where waits end.

wPerf (OSDI'18): A waits for B in [s, e]: the edge A → B gains e - s; where B itself waits inside, that part is passed
on to what B waits for, and so on. Edges of less than 1 % of the run are dropped; a component that nothing leads out of
is a bottleneck. Of those the one counts at which most of the threads' waiting *for each other* ends: who sleeps till a
timer and is waited for by nobody is idle, however long.

Who waits for a thread's end, once, is not held up by it and says nothing: main that joins its workers.

Nodes: threads, resources (a wait for one leads to it, and from it to who held it), and disk, interrupt (a timer, a
network, a device), no processor, stopped, another program.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler.blame.events import Ints
from flowprof.profiler.root_causes import DEPTH, Stretches, met
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

MAX_NODES = 2000
DEVICES = ("disk", "interrupt", "no processor", "stopped", "another program")
ENDING_NS = 1_000_000  # what a thread may still do behind the wake-up of who joins it
_STATES = {"disk": 0, "fault": 0, "runnable": 2, "stopped": 3}


@dataclass(frozen=True, slots=True)
class Graph:
    """passed[i, j]: ns for which i waited for j, passed-on parts included; direct: at first sight; ends[i]: ns of the
    threads' waits for each other that end at i."""

    nodes: tuple[str, ...]
    threads: int  # the first of the nodes; then resources
    passed: NDArray[np.float64]
    direct: NDArray[np.float64]
    ends: NDArray[np.float64]
    followed: int = DEPTH  # wakers at the most, one behind the other; fewer: there were too many parts of waits


@dataclass(frozen=True, slots=True)
class Component:
    """Nodes that wait for each other and for nothing else, resources first, and the waiting that ends there."""

    nodes: tuple[str, ...]
    ns: int


def waker_graph(stretches: Stretches, of: Ints, threads: dict[int, str], resources: tuple[str, ...]) -> Graph | None:
    """Follow every wait. threads: the target's, by id. of: of each stretch the resource waited for, -1: none.

    None where there are more than MAX_NODES nodes.
    """
    nodes = (*threads.values(), *resources, *DEVICES)
    many = len(nodes)
    if many > MAX_NODES:
        return None
    own = np.array(sorted(threads), np.int64)
    number = np.array([list(threads).index(tid) for tid in own.tolist()], np.int64)
    order = np.lexsort((stretches.start_ns, stretches.tid))
    lasts = (stretches.end_ns > stretches.start_ns) & ~joins(stretches, of)
    kept = order[np.isin(stretches.tid[order], own) & lasts[order]]
    known, by_way = stretches.of(kept), np.where(of[kept] >= 0, of[kept] + len(threads), -1)
    device = np.full(len(known.tid), -1)
    for state, at in _STATES.items():
        device[known.state == state] = at

    def node(tid: Ints) -> Ints:
        if not len(own):
            return np.full(len(tid), many - 1)
        at = np.minimum(np.searchsorted(own, tid), len(own) - 1)
        return np.where(own[at] == tid, number[at], np.where(tid == 0, many - 4, many - 1))

    passed, direct, ends = np.zeros(many * many), np.zeros(many * many), np.zeros(many)
    row, followed = np.arange(len(known.tid)), DEPTH
    now, chain = known, known.tid[None, :]
    for depth in range(DEPTH):
        length = (now.end_ns - now.start_ns).astype(np.float64)
        waits = device[row] < 0
        source, target = node(now.tid), np.where(waits, node(now.by_tid), many - len(DEVICES) + device[row])
        way = by_way[row]
        first = np.where(way >= 0, way, target)
        step = np.bincount(source * many + first, np.where(source != first, length, 0), many * many)
        step += np.bincount((way * many + target)[way >= 0], length[way >= 0], many * many)
        passed += step
        direct += step if depth == 0 else 0
        for_thread = waits & (target < len(threads))
        circle = (chain == now.by_tid).any(axis=0) | (depth == DEPTH - 1)
        goes_on = for_thread & ~circle
        onward = met(known, now, goes_on)
        if onward is None:  # who woke them has to answer for all of it
            followed, onward = depth + 1, (row[:0], row[:0], row[:0])
        stretch, part, ns = onward
        left = length - np.where(goes_on, np.bincount(part, ns, len(length)), 0)
        counts = for_thread | (depth > 0) | (way >= 0)
        ends += np.bincount(target[counts], left[counts], many)
        if not len(part):
            break
        begin = np.maximum(known.start_ns[stretch], now.start_ns[part])
        chain, row = np.vstack([chain[:, part], now.by_tid[part]]), stretch
        now = Stretches(known.tid[stretch], begin, begin + ns, known.state[stretch], known.by_tid[stretch])
    return Graph(nodes, len(threads), passed.reshape(many, many), direct.reshape(many, many), ends, followed)


def joins(stretches: Stretches, of: Ints) -> NDArray[np.bool_]:
    """Waits for another thread's end: the only one for that thread, for no resource, and it neither sleeps nor wakes
    anybody from then on. A thread that computes to the end of a recording looks the same: one wait is no pattern."""
    asleep = np.flatnonzero((stretches.state == "sleeping") & (stretches.by_tid > 0))
    waits = asleep[of[asleep] < 0]
    pairs = stretches.tid[waits] << 32 | stretches.by_tid[waits]  # both have 32 bits
    _, which, times = np.unique(pairs, return_inverse=True, return_counts=True)
    once = waits[times[which] == 1]
    tids = np.unique(np.concatenate((stretches.tid, stretches.by_tid)))
    seen = np.full(len(tids), np.iinfo(np.int64).min)
    np.maximum.at(seen, np.searchsorted(tids, stretches.tid), stretches.start_ns)
    np.maximum.at(seen, np.searchsorted(tids, stretches.by_tid[asleep]), stretches.end_ns[asleep])
    found = np.zeros(len(stretches.tid), bool)
    found[once] = seen[np.searchsorted(tids, stretches.by_tid[once])] <= stretches.end_ns[once] + ENDING_NS
    return found


def bottleneck(graph: Graph, least_ns: float, minor: float) -> Component | None:
    """The sink at which most waiting ends; None where nothing waits for anything.

    Edges below least_ns are left out, and those of less than `minor` of the waiting that ends where they begin: hardly
    any thread always has its processor, and who waits for one waits mostly for its own work.
    """
    least = np.maximum(minor * graph.ends, max(least_ns, 1))
    source, target = np.nonzero(graph.passed >= least[:, None])
    if not len(source):
        return None
    many = len(graph.nodes)
    arrows = csr_array((np.ones(len(source)), (source, target)), shape=(many, many))
    count, of = connected_components(arrows, directed=True, connection="strong")
    sink = np.ones(count, bool)
    sink[of[source[of[source] != of[target]]]] = False
    touched = np.zeros(count, bool)
    touched[of[np.concatenate((source, target))]] = True
    weight = np.bincount(of, graph.ends, count)
    best = int(np.argmax(np.where(sink & touched, weight, -1)))
    if not (sink & touched)[best] or weight[best] < max(least_ns, 1):
        return None
    members = np.flatnonzero(of == best)
    thread = members < graph.threads
    members = members[np.lexsort((-graph.ends[members], thread))]
    return Component(tuple(graph.nodes[one] for one in members), int(weight[best]))
