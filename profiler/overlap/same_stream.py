"""Copies between host and device that waited for kernels in their stream, and kernels that waited for such copies.

What shows that they are independent is said in legality.py. Each needs a second buffer, as the one that is copied may
be the one that the kernels use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from flowprof.profiler import intervals
from flowprof.profiler.intervals import Ints
from flowprof.profiler.overlap.legality import Chance
from flowprof.profiler.overlap.timeline import COPY, Slices, alone
from numpy.typing import NDArray

MAX_STREAMS = 1_000  # with copies, those with most of them


def chances(slices: Slices) -> list[Chance]:
    """Copies that waited in a stream for kernels, and kernels that waited for copies to the host."""
    to_device = Chance(
        "same stream", "the copy was asked for before the kernel ahead of it was done, so it needs nothing of it; they "
        "are in one stream", "medium", "copy", -1, -1, -1,
    )  # fmt: skip
    to_host = Chance(
        "same stream", "the kernels behind the copy to the host were launched before it began, so they do not wait for "
        "what the host does with it; they are in one stream", "medium", "copy", -1, -1, -1,
    )  # fmt: skip
    kernels = ~slices.of(COPY)
    for rows in _streams_with_copies(slices, kernels):
        start, end, is_kernel = slices.start[rows], slices.end[rows], kernels[rows]
        done = np.concatenate(([0], np.cumsum(np.where(is_kernel, end - start, 0))))

        def until(at: Ints, start: Ints = start, dur: Ints = end - start, kernel: NDArray[np.bool_] = is_kernel,
                  done: Ints = done) -> Ints:  # fmt: skip
            """Kernel time of this stream before each moment."""
            inside = np.maximum(np.searchsorted(start, at, side="right") - 1, 0)
            part = np.where(kernel[inside], np.clip(at - start[inside], 0, dur[inside]), 0)
            return np.asarray(done[inside] + part, np.int64)

        launch = np.where(slices.launch[rows] >= 0, slices.launch_ns[rows], np.iinfo(np.int64).max)
        into = np.flatnonzero(slices.to_device[rows] & (launch < start))
        _take(to_device, slices, rows, into, launch[into], start[into], until, -1)
        out = np.flatnonzero(slices.to_host[rows])
        queued = np.searchsorted(np.maximum.accumulate(launch), start[out])  # those before it were launched by then
        _take(to_host, slices, rows, out, end[out], end[np.maximum(queued - 1, out)], until, 1)
    for one, copies in ((to_device, slices.to_device), (to_host, slices.to_host)):
        if one.count:  # beside other streams' kernels they may have run already
            exposed = alone(slices, copies, kernels)
            one.hidden_ns = min(one.hidden_ns, one.room_ns, exposed)
    return [one for one in (to_device, to_host) if one.hidden_ns > 0]


def _streams_with_copies(slices: Slices, kernels: NDArray[np.bool_]) -> Iterator[Ints]:
    """Rows of each stream that holds both, by start."""
    streams, copies = np.unique(slices.stream[slices.to_device | slices.to_host], return_counts=True)
    chosen = streams[np.argsort(-copies)][:MAX_STREAMS]
    rows = np.flatnonzero(np.isin(slices.stream, chosen))
    rows = rows[np.argsort(slices.stream[rows], kind="stable")]
    for part in np.split(rows, np.flatnonzero(np.diff(slices.stream[rows])) + 1):
        if len(part) and kernels[part].any():
            yield part


def _take(chance: Chance, slices: Slices, rows: Ints, copies: Ints, begin: Ints, stop: Ints,
          until: Callable[[Ints], Ints], side: int) -> None:  # fmt: skip
    """Add copies (positions in rows), each with a stretch whose kernels it could run beside. `until`: kernel time
    before a moment; `side`: -1 when the kernels are ahead of the copy, 1 when they are behind it."""
    room = until(stop) - until(begin)
    dur = slices.end[rows[copies]] - slices.start[rows[copies]]
    gain = np.minimum(dur, room)
    if not len(copies) or gain.max() <= 0:
        return
    best = int(gain.argmax())
    if gain[best] > min(chance.longest):
        kernels = np.flatnonzero(slices.resource[rows] != COPY)
        place = int(np.searchsorted(kernels, copies[best])) + (side - 1) // 2
        chance.hidden = int(slices.name[rows[copies[best]]])
        chance.room = int(slices.name[rows[kernels[min(max(place, 0), len(kernels) - 1)]]])
        chance.longest = (int(dur[best]), int(room[best]))
    useful = gain > 0
    first, last = intervals.union(begin[useful], stop[useful])  # a kernel is room once, however many copies wait for it
    chance.count += int(useful.sum())
    chance.hidden_ns += int(gain.sum())
    chance.room_ns += int((until(last) - until(first)).sum())
