"""Waits follow their waker (pure, numpy): what a thread waited for in the end.

Thread A sleeps until B wakes it. While A slept, B may itself have waited: for C, for a processor, for the disk. Those
parts of A's wait belong to what B waited for, and so on; the rest belongs to B's own work (wPerf, OSDI '18: waits are
passed on to the waker; Perfetto's rule: a wake-up by an interrupt has no waker). Every nanosecond of a wait goes to
exactly one cause.

cause         by_tid
work          who ran meanwhile: a thread of the target
runnable      who had the processor that the thread at the end of the chain wanted
fault, disk, stopped   as in thread_state
interrupt     0: a timer or a device
outside       who woke it: no thread of the target, so what it waited for is not known
unknown       who woke it: a chain that comes back to a thread that is in it, has more than DEPTH threads, or belongs
              to waits that fall into more than MAX_PARTS parts
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler.stalls import overlaps
from numpy.typing import NDArray

DEPTH = 16
MAX_PARTS = 2_000_000  # of waits, that are followed at a time: some 200 bytes of memory each
_WAITS_FOR_A_WAKER = "sleeping"

Integers = NDArray[np.int64]
Names = NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Stretches:
    """Stretches of time in which threads did not run; those of one thread do not overlap. by_tid as in thread_state."""

    tid: Integers
    start_ns: Integers
    end_ns: Integers
    state: Names
    by_tid: Integers

    def sorted(self) -> Stretches:
        """By thread, then by time."""
        return self.of(np.lexsort((self.start_ns, self.tid)))

    def of(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Stretches:
        """Some of them, or another order."""
        return Stretches(
            self.tid[which], self.start_ns[which], self.end_ns[which], self.state[which], self.by_tid[which]
        )


@dataclass(frozen=True, slots=True)
class Causes:
    """Parts of waits. wait: position of the wait; the parts of one wait add up to it."""

    wait: Integers
    cause: Names
    by_tid: Integers
    ns: Integers


def root_causes(waits: Stretches, stretches: Stretches, own: Integers) -> Causes:
    """Pass every wait on to what its waker waited for. own: thread ids of the target, whose stretches are all there."""
    known = stretches.sorted()
    found: list[tuple[Integers, Names, Integers, Integers]] = []

    def settle(which: NDArray[np.bool_], cause: str | Names, ns: Integers) -> None:
        names = np.full(len(now.tid), cause) if isinstance(cause, str) else cause
        which = which & (ns > 0)
        found.append((wait[which], names[which], now.by_tid[which], ns[which]))

    now, wait = waits, np.arange(len(waits.tid))
    chain = now.tid[None, :]  # (length of the chain, parts): the threads passed through
    for depth in range(DEPTH):
        length = now.end_ns - now.start_ns
        asleep = now.state == _WAITS_FOR_A_WAKER
        settle(~asleep, now.state, length)
        settle(asleep & (now.by_tid == 0), "interrupt", length)
        foreign = asleep & (now.by_tid != 0) & ~np.isin(now.by_tid, own)
        settle(foreign, "outside", length)
        circle = (chain == now.by_tid).any(axis=0) | (depth == DEPTH - 1)
        goes_on = asleep & (now.by_tid != 0) & ~foreign
        settle(goes_on & circle, "unknown", length)
        goes_on &= ~circle
        if not goes_on.any():
            break
        onward = met(known, now, goes_on)
        if onward is None:
            settle(goes_on, "unknown", length)
            break
        stretch, part, ns = onward
        passed_on = np.bincount(part, ns, minlength=len(length)).astype(np.int64)
        settle(goes_on, "work", length - passed_on)
        begin = np.maximum(known.start_ns[stretch], now.start_ns[part])
        chain = np.vstack([chain[:, part], now.by_tid[part]])
        wait = wait[part]
        now = Stretches(known.tid[stretch], begin, begin + ns, known.state[stretch], known.by_tid[stretch])
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return Causes(columns[0], columns[1], columns[2], columns[3])


def met(known: Stretches, now: Stretches, which: NDArray[np.bool_]) -> tuple[Integers, Integers, Integers] | None:
    """Which stretch of its waker every part meets, and for how long: (stretch, part, ns); None: over MAX_PARTS."""
    part, starts, ends, begin, until = _laid_out(known, now, which)
    if int((np.searchsorted(starts, until) - np.searchsorted(ends, begin, side="right")).sum()) > MAX_PARTS:
        return None
    stretch, where, ns = overlaps(starts, ends, begin, until)
    return stretch, part[where], ns


def slept(known: Stretches, now: Stretches, which: NDArray[np.bool_]) -> Integers:
    """For how long the waker of every part of `which` slept meanwhile, ns; 0: of the others."""
    part, starts, ends, begin, until = _laid_out(known, now, which)
    whole = np.concatenate(([0], np.cumsum(np.where(known.state == _WAITS_FOR_A_WAKER, ends - starts, 0))))

    def before(moment: Integers) -> Integers:
        at = np.maximum(np.searchsorted(starts, moment, side="right") - 1, 0)
        asleep = known.state[at] == _WAITS_FOR_A_WAKER
        inside: Integers = np.clip(moment - starts[at], 0, ends[at] - starts[at])
        return whole[at] + np.where(asleep, inside, 0)

    found = np.zeros(len(now.tid), np.int64)
    if len(part):
        found[part] = before(until) - before(begin)
    return found


def _laid_out(
    known: Stretches, now: Stretches, which: NDArray[np.bool_]
) -> tuple[Integers, Integers, Integers, Integers, Integers]:
    """Threads laid end to end on one axis of time, so that one search serves all: the parts whose waker was ever away;
    when all stretches start and end; and when these parts do, where their waker's stretches are."""
    part = np.flatnonzero(which)
    threads = np.unique(known.tid)
    if not len(threads):
        return part[:0], part[:0], part[:0], part[:0], part[:0]
    begin = int(min(known.start_ns.min(), now.start_ns.min()))
    span = int(max(known.end_ns.max(), now.end_ns.max())) - begin + 1
    row = np.searchsorted(threads, known.tid) * span - begin
    at = np.minimum(np.searchsorted(threads, now.by_tid[part]), len(threads) - 1)
    there = threads[at] == now.by_tid[part]  # the others were never away
    part, shift = part[there], at[there] * span - begin
    return part, known.start_ns + row, known.end_ns + row, now.start_ns[part] + shift, now.end_ns[part] + shift
