"""What ran one after the other though nothing in the recording makes one need the other, and who serialised it.

In one stream the order of a program is no proof that one piece of work needs the one before, and none of the opposite.
Independence is taken as shown where

* a copy to the device was asked for before the kernel ahead of it in its stream was done: the host had the data, so
  they do not come from that kernel (culprit: the same stream);
* a copy to the host holds up kernels of its stream that were launched before it began: they read nothing that it writes
  (the same stream). Both need a second buffer, as the one that is copied may be the one that the kernels use;
* an asynchronous copy from pageable memory keeps the host from launching work for other streams, and no event orders
  them: such a call may return before the copy is done, so a program that needed the data there would have to say so,
  unless the default stream says it (the pageable copy);
* a synchronise lies between work of two streams with no event between them and no copy to the host before it. A copy to
  the device after it needs nothing of a kernel; of two kernels it is a guess, and said to be one (the synchronise).

Which stream waits for which, some traces tell (gpu_sync): then a wait of the host is for work of that stream, and an
event orders its own two streams, and what is tied to them by others, and nothing else. Where a trace does not tell,
whatever the thread launches after a call that makes a stream wait counts as ordered. The default stream and the
blocking ones wait for each other, where the trace tells which they are (gpu_stream).

Not taken: a synchronise after a copy to the device (the kernels behind it may read what was copied), after a copy to
the host (the host may need the data), whatever an event orders, and waits for the whole device by which two streams
take turns: that is how the steps of one computation look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.findings import Confidence
from flowprof.profiler.intervals import Ints
from flowprof.profiler.overlap.interference import Hidden
from flowprof.profiler.overlap.timeline import (
    BLOCKING,
    COMPUTE,
    COPY,
    MEMORY,
    NETWORK,
    NULL,
    OTHER,
    UNKNOWN,
    Slices,
)
from numpy.typing import NDArray

MIN_WAIT_NS = 5_000  # shorter waits cost less than what it takes to be rid of them
SLACK_NS = 2_000  # between the clocks of host and device
LATE_NS = 100_000  # from the end of the awaited work to the return of the call
MAX_WAITS = 20_000  # the longest
NEAR = 256  # slices that are looked at around a wait, and events behind it
DEFAULT_STREAMS = (0, 7)  # as roctracer and CUPTI number it, where the trace does not tell
LATEST = np.iinfo(np.int64).max
_HIDDEN: dict[int, Hidden] = {MEMORY: "memory", NETWORK: "network", COPY: "copy"}
_DEARER = (COMPUTE, OTHER, MEMORY, NETWORK, COPY)  # of a pair, the later one is hidden behind the earlier


@dataclass(frozen=True, slots=True)
class Events:
    """Calls that make a stream wait for an event, by start. Streams: -1 where the trace does not tell."""

    at: Ints
    thread: Ints  # as in Slices
    process: Ints
    waiting: Ints  # stream that waits
    awaited: Ints  # stream in which the event was recorded
    recorded: Ints  # when the call began that did it; LATEST: not known


@dataclass(frozen=True, slots=True)
class Waits:
    """Calls in which a thread waited for the device, by start."""

    start: Ints
    end: Ints
    thread: Ints  # as in Slices
    process: Ints
    call: Ints  # call_id
    whole: NDArray[np.bool_]  # for all streams of the device
    awaited: Ints  # the stream that was waited for; -1: all, or the trace does not tell
    events: Events


@dataclass(slots=True)
class Chance:
    """Work that could be hidden, all places with one culprit and one pair of names; names are numbers as in Slices."""

    culprit: str  # "same stream", "pageable copy", "synchronise"
    reason: str
    confidence: Confidence
    kind: Hidden
    hidden: int  # name
    room: int  # name
    call: int  # call_id of the culprit's longest wait; -1: no call
    count: int = 0
    hidden_ns: int = 0  # no more of it in any place than there is room
    room_ns: int = 0
    longest: tuple[int, int] = (0, 0)  # hidden and room, ns, of the place with most to gain

    def add(self, hidden_ns: int, room_ns: int, call: int = -1) -> None:
        gain = min(hidden_ns, room_ns)
        if gain <= 0:
            return
        self.count += 1
        self.hidden_ns += gain
        self.room_ns += room_ns
        if gain > min(self.longest):
            self.longest, self.call = (hidden_ns, room_ns), call


def held_up(slices: Slices, waits: Waits) -> tuple[list[Chance], Counter[str]]:
    """Work of other streams that a waiting thread could have launched; and why waits are no such chance, counted."""
    view = _View(slices, waits)
    refused: Counter[str] = Counter()
    found: dict[tuple[str, Confidence, Hidden, int, int, bool], Chance] = {}
    turns: set[tuple[int, int]] = set()  # streams, the awaited one and the one launched for
    whole: dict[tuple[str, Confidence, Hidden, int, int, bool], set[tuple[int, int]]] = {}
    if view.waits_seen > MAX_WAITS:
        refused[f"waits beyond the {MAX_WAITS} longest were not looked at"] = view.waits_seen - MAX_WAITS
    for wait in view.longest():
        ahead = view.awaited(wait) if wait.copy < 0 else np.array([wait.copy])
        if not len(ahead):
            continue
        behind = view.behind(wait, ahead)
        if not len(behind):
            continue
        streams = (int(slices.stream[ahead[-1]]), int(slices.stream[behind[0]]))
        behind = behind[~view.ordered(wait, ahead, behind)]
        if not len(behind):
            refused["an event or the default stream orders the two"] += 1
            turns.add(streams)
            continue
        reason, confidence, behind = _judged(slices, wait.copy >= 0, ahead, behind)
        if not len(behind):
            refused[reason] += 1
            continue
        pair = _pair(slices, ahead, behind, wait.start)
        if pair is None:
            refused["both take the same resource"] += 1
            continue
        culprit = "pageable copy" if wait.copy >= 0 else "synchronise"
        hidden, room = int(slices.name[pair.hidden]), int(slices.name[pair.room])
        key = (culprit, confidence, pair.kind, hidden, room, wait.whole)
        streams = (int(slices.stream[ahead[-1]]), int(slices.stream[behind[0]]))
        turns.add(streams)
        if wait.whole and confidence == "low":
            whole.setdefault(key, set()).add(streams)
        if key not in found:
            found[key] = Chance(culprit, reason, confidence, pair.kind, hidden, room, wait.call)
        found[key].add(pair.hidden_ns, pair.room_ns, wait.call)
    for key, pairs in whole.items():
        if any((other, one) in turns for one, other in pairs):
            refused["two streams take turns by waits for the whole device"] += found.pop(key).count
    return [one for one in found.values() if one.hidden_ns > 0], refused


@dataclass(frozen=True, slots=True)
class _Wait:
    start: int
    end: int
    thread: int
    process: int
    call: int
    copy: int  # the slice of a pageable copy that kept the thread; -1: a synchronise
    whole: bool
    awaited: int  # stream; -1: not told


class _View:
    """Slices by end and by launching thread."""

    def __init__(self, slices: Slices, waits: Waits) -> None:
        self.slices, self.waits = slices, waits
        self.by_end = np.argsort(slices.end, kind="stable")
        self.ends = slices.end[self.by_end]
        known = np.flatnonzero(slices.launch >= 0)
        known = known[np.lexsort((slices.launch_ns[known], slices.thread[known]))]
        self.launches = _by_thread(slices.thread[known], known)
        self.launch_ns = _by_thread(slices.thread[known], slices.launch_ns[known])
        held = slices.pageable & slices.to_device & (slices.launch >= 0)
        self.copies = np.flatnonzero(held & (slices.end <= slices.launched_ns + SLACK_NS))
        self.waits_seen = len(waits.start) + len(self.copies)
        starts = np.concatenate((waits.start, slices.launch_ns[self.copies]))
        threads = np.concatenate((waits.thread, slices.thread[self.copies]))
        order = np.lexsort((starts, threads))
        self.next = _by_thread(threads[order], starts[order])
        events = waits.events
        order = np.argsort(events.process, kind="stable")
        self.events = _by_thread(events.process[order], order)  # of a process, by start
        self.event_ns = _by_thread(events.process[order], events.at[order])
        self.null_ns = np.sort(slices.launch_ns[(slices.flag == NULL) & (slices.launch >= 0)])

    def longest(self) -> Iterator[_Wait]:
        """MAX_WAITS of them, by length."""
        slices, waits, copies = self.slices, self.waits, self.copies
        start = np.concatenate((waits.start, slices.launch_ns[copies]))
        end = np.concatenate((waits.end, slices.launched_ns[copies]))
        thread = np.concatenate((waits.thread, slices.thread[copies]))
        process = np.concatenate((waits.process, slices.process[copies]))
        call = np.concatenate((waits.call, slices.launch[copies]))
        copy = np.concatenate((np.full(len(waits.start), -1), copies))
        whole = np.concatenate((waits.whole, np.zeros(len(copies), bool)))
        awaited = np.concatenate((waits.awaited, slices.stream[copies]))
        order = np.argsort(start - end, kind="stable")[:MAX_WAITS]
        order = order[(end - start)[order] >= MIN_WAIT_NS]
        columns = (start, end, thread, process, call, copy, whole, awaited)
        for row in zip(*(column[order].tolist() for column in columns), strict=True):
            yield _Wait(*row)

    def awaited(self, wait: _Wait) -> Ints:
        """Slices of one stream that were done in the wait, by end; the last one is what it was for. None: empty."""
        stop = int(np.searchsorted(self.ends, wait.end + SLACK_NS, side="right"))
        near = self.by_end[max(0, stop - NEAR) : stop]
        near = near[(self.slices.end[near] >= wait.start) & (self.slices.launch_ns[near] <= wait.start)]
        if wait.awaited >= 0:
            near = near[self.slices.stream[near] == wait.awaited]
        if not len(near) or wait.end - self.slices.end[near[-1]] > LATE_NS:
            return near[:0]
        if self.slices.to_host[near].any():
            return near[self.slices.to_host[near]][-1:]
        return np.asarray(near[self.slices.stream[near] == self.slices.stream[near[-1]]])

    def behind(self, wait: _Wait, ahead: Ints) -> Ints:
        """What the thread launched after the wait and before the next, for other streams."""
        rows = self.launches.get(wait.thread)
        if rows is None:
            return ahead[:0]
        following = self.next[wait.thread]
        place = int(np.searchsorted(following, wait.end))
        until = int(following[place]) if place < len(following) else LATEST
        launch = self.launch_ns[wait.thread]
        first, last = np.searchsorted(launch, wait.end), np.searchsorted(launch, until)
        rows = rows[first : min(int(last), int(first) + NEAR)]
        apart = self.slices.stream[rows] != self.slices.stream[ahead[-1]]
        return np.asarray(rows[apart & (self.slices.start[rows] >= self.slices.end[ahead[-1]] - SLACK_NS)])

    def ordered(self, wait: _Wait, ahead: Ints, behind: Ints) -> NDArray[np.bool_]:
        """Which of the work behind a wait needs the awaited work for sure, or for all that the trace tells."""
        slices, first = self.slices, int(self.slices.launch_ns[ahead].min())
        launched, streams = slices.launch_ns[behind], slices.stream[behind]
        since, everything = self._tied(wait, first, int(launched.max()), int(slices.stream[ahead[-1]]))
        found = launched >= everything
        for stream, at in since.items():
            found |= (streams == stream) & (launched >= at)
        flag, flags = int(slices.flag[ahead[-1]]), slices.flag[behind]
        if flag == NULL:
            found |= flags == BLOCKING
        elif flag == BLOCKING:
            found |= flags == NULL
            place = int(np.searchsorted(self.null_ns, first))
            if place < len(self.null_ns):  # which waits for the one, and the other for it
                found |= (flags == BLOCKING) & (launched > self.null_ns[place])
        return found

    def _tied(self, wait: _Wait, first: int, last: int, stream: int) -> tuple[dict[int, int], int]:
        """Streams that wait for what was launched in `stream` at `first`, each from when on, until `last`; and from
        when on whatever the thread launches counts as waiting, for it is not told which stream does."""
        tied, events = {stream: first}, self.waits.events
        rows = self.events.get(wait.process)
        if rows is None:
            return {}, LATEST
        begin, end = (int(place) for place in np.searchsorted(self.event_ns[wait.process], (first, last)))
        everything = int(events.at[rows[begin + NEAR]]) if end > begin + NEAR else LATEST
        for row in rows[begin : min(end, begin + NEAR)].tolist():
            at, waiting, awaited = int(events.at[row]), int(events.waiting[row]), int(events.awaited[row])
            if waiting < 0:
                if events.thread[row] == wait.thread:
                    everything = min(everything, at)
            elif awaited < 0 or (awaited in tied and events.recorded[row] >= tied[awaited]):
                tied.setdefault(waiting, at)
        return tied, everything


def _by_thread(thread: Ints, values: Ints) -> dict[int, Ints]:
    """Values of each thread (or process); sorted by thread."""
    edges = np.flatnonzero(np.diff(thread)) + 1
    return {int(part[0]): rows for part, rows in zip(np.split(thread, edges), np.split(values, edges), strict=True)
            if len(part)}  # fmt: skip


def _judged(slices: Slices, pageable: bool, ahead: Ints, behind: Ints) -> tuple[str, Confidence, Ints]:
    """Why work behind a wait is independent of what was awaited, how sure that is, and which; none: why not."""
    nothing = behind[:0]
    last = int(ahead[-1])
    if pageable:
        reason = ("a copy from pageable memory keeps the host until it is done; what it launched next is for another "
                  "stream, and no event makes it wait for the copy")  # fmt: skip
        both = np.append(behind, last)
        if (np.isin(slices.stream[both], DEFAULT_STREAMS) & (slices.flag[both] == UNKNOWN)).any():
            return f"{reason}. One of the two may be the default stream, which orders blocking streams", "low", behind
        return reason, "medium", behind
    if slices.to_host[last]:
        return "the host waits for a copy to it, and may need the data for what it launches next", "low", nothing
    copies = behind[slices.to_device[behind]]
    if len(copies):
        return ("the host waits for the other stream's kernel before it asks for a copy to the device, which needs "
                "nothing of that kernel", "medium", copies)  # fmt: skip
    if slices.to_device[ahead].any():
        return "what is launched after a copy to the device may read what was copied", "low", nothing
    return ("the host waits for one stream before it launches for the other; no event and no copy to the host ties "
            "them. If the second reads what the first wrote, the wait is its order", "low", behind)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pair:
    """What is hidden behind what: the longest slice of each, and how long all of their resource take."""

    kind: Hidden
    hidden: int
    room: int
    hidden_ns: int
    room_ns: int


def _pair(slices: Slices, ahead: Ints, behind: Ints, since: int) -> _Pair | None:
    """Of the resources on both sides those with most to gain; of awaited work what was left when the wait began."""
    sides = []
    for rows, begin in ((ahead, since), (behind, int(slices.start[behind].min()))):
        start, end = np.maximum(slices.start[rows], begin), np.maximum(slices.end[rows], begin)
        resource, found = slices.resource[rows], {}
        for one in set(resource.tolist()):
            own = resource == one
            found[one] = (_length(start[own], end[own]), int(rows[own][(end - start)[own].argmax()]))
        sides.append(found)
    pairs = [(one, other) for one in sides[0] for other in sides[1] if _beside(one, other)]
    if not pairs:
        return None
    before, after = max(pairs, key=lambda pair: (min(sides[0][pair[0]][0], sides[1][pair[1]][0]), pair))
    awaited, launched = sides[0][before], sides[1][after]
    if _DEARER.index(before) > _DEARER.index(after):
        return _Pair(_HIDDEN[before], awaited[1], launched[1], awaited[0], launched[0])
    return _Pair(_HIDDEN[after], launched[1], awaited[1], launched[0], awaited[0])


def _length(start: Ints, end: Ints) -> int:
    """Mostly of one slice, and then without sorting."""
    return int(end[0] - start[0]) if len(start) == 1 else intervals.length(start, end)


def _beside(one: int, other: int) -> bool:
    """Whether two classes of work take different resources for sure."""
    if one == other:
        return False
    return bool({one, other} & {COPY, NETWORK}) or {one, other} == {COMPUTE, MEMORY}
