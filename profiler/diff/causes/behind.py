"""The waits at barriers that absences of threads can have made. Part of the rules.

While one thread is away from its processor the others of the pool wait for it: for as long, each. So of what the
barriers' imbalance grew by, absences explain no more than their own growth times the other threads.
"""

from __future__ import annotations

from flowprof.profiler.diff.causes.change import Change, at_most, grown
from flowprof.profiler.diff.causes.claim import Cell
from flowprof.profiler.diff.causes.setup import agreed, threads_seen
from flowprof.profiler.diff.compared import Compared


def behind(compared: Compared, change: Change, absent_ns: float) -> dict[Cell, float]:
    """What barriers gained (or lost) behind absences that grew by so much, ns per token."""
    seen = [agreed(side, threads_seen) or {} for side in (compared.pair.a, compared.pair.b)]
    threads = max((count for side in seen for count in side.values()), default=2)
    barriers = grown(change.of(parts=("barrier",)), 1.0 if absent_ns > 0 else -1.0)
    return at_most(barriers, abs(absent_ns) * max(threads - 1, 1))
