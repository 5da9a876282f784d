"""What is certain about a stream from the host's side: what was put into it, and up to where it is complete.

A *completion* is (at, until): at `at` all work that had been queued by `until` is known to be done. They come from

* a synchronise of the stream or of the whole device that returned without an error: until its own beginning;
* a synchronise of an event, or a query of one that said "done": until the event was recorded, in that stream;
* a copy to the host that is synchronous by its contract: until its own end, in the default stream;
* a stream that was made to wait for an event, once it is itself known to be complete up to that wait.

A stream is *drained* from a completion that covers everything queued so far until the next call that queues work. What
was queued before the recording began is not known, so nothing is said before a stream's first completion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
CHAIN = 3  # streams that wait for streams that wait …: so many links are followed
NOTHING = np.empty(0, np.int64)


@dataclass(slots=True)
class Completions:
    """Times at which a stream is known to be complete, and up to where. at_ns is sorted, until_ns does not fall."""

    at_ns: Ints
    until_ns: Ints

    @classmethod
    def of(cls, at_ns: Ints, until_ns: Ints) -> Completions:
        """From pairs in any order."""
        order = np.argsort(at_ns, kind="stable")
        until = until_ns[order]
        return cls(at_ns[order], np.maximum.accumulate(until) if len(until) else until)

    def when(self, until_ns: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Since when it is known that everything up to `until_ns` is done, and whether it ever is."""
        first = np.searchsorted(self.until_ns, until_ns, "left")
        return np.append(self.at_ns, 0)[first], first < len(self.at_ns)


@dataclass(slots=True)
class Queue:
    """One stream: its work by start, and its completions."""

    start_ns: Ints  # of the calls that queued work, sorted
    end_ns: Ints  # sorted on its own: how much was surely queued when
    done: Completions

    def depth(self) -> int:
        """Most pieces of work that were queued, or being queued, and not known to be complete."""
        if not len(self.start_ns):
            return 0
        queued = np.arange(1, len(self.start_ns) + 1)
        seen = np.searchsorted(self.done.at_ns, self.start_ns, "right")
        until = np.concatenate(([np.iinfo(np.int64).min], self.done.until_ns))[seen]
        complete = np.searchsorted(self.end_ns, until, "right")
        return int((queued - complete).max())

    def drained(self) -> tuple[Ints, Ints]:
        """Stretches in which the stream was certainly empty: from a completion to the start of the next work."""
        started = np.searchsorted(self.start_ns, self.done.at_ns, "right")
        complete = np.searchsorted(self.end_ns, self.done.until_ns, "right")
        empty = (complete >= started) & (started > 0) & (started < len(self.start_ns))
        following, first = np.unique(started[empty], return_index=True)  # of several completions the first
        return self.done.at_ns[empty][first], self.start_ns[following]

    def empty_since(self) -> int | None:
        """When its last work was known to be complete; None: never."""
        if not len(self.start_ns):
            return None
        at, known = self.done.when(self.end_ns[-1:])
        return int(at[0]) if known[0] else None

    def runs(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Work between two drained stretches: index of the first piece, behind the last, end of the last call, and when
        all of it was known to be complete."""
        started = np.searchsorted(self.start_ns, self.done.at_ns, "right")
        complete = np.searchsorted(self.end_ns, self.done.until_ns, "right")
        empty = (complete >= started) & (started > 0)
        behind, first = np.unique(started[empty], return_index=True)
        done = self.done.at_ns[empty][first]
        begin = np.concatenate(([0], behind[:-1])).astype(np.int64)[: len(behind)]
        return begin, behind, self.end_ns[behind - 1], done


def follow(done: dict[int, Completions], waiting: Ints, wait_end_ns: Ints, source: Ints, recorded_ns: Ints) -> None:
    """Add what is known of streams for whose events other streams were made to wait. All arrays: one such call each.

    done: by stream, changed in place. `waiting` was made to wait for what `source` had been given before `recorded_ns`.
    """
    direct = dict(done)
    for _ in range(CHAIN):
        for stream in np.unique(source).tolist():
            found = [direct.get(stream, Completions(NOTHING, NOTHING))]
            for other in np.unique(waiting[source == stream]).tolist():
                if other != stream and other in done:
                    calls = (source == stream) & (waiting == other)
                    at, known = done[other].when(wait_end_ns[calls])
                    found.append(Completions(at[known], recorded_ns[calls][known]))
            done[stream] = Completions.of(
                np.concatenate([one.at_ns for one in found]), np.concatenate([one.until_ns for one in found])
            )
