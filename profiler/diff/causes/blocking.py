"""Threads sleep within operators, or were stopped, more than before.

Fires when time asleep outside of barriers (locks, I/O, SIGSTOP) grew in a phase that changed, by 2 % of it or more.

What to do: the slow run's report shows where threads waited, by stack; record with --resources pthread,futex to see who
holds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.diff.causes.change import changes, grown, total
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.findings import in_ms

MIN_SHARE = 0.02


def causes(compared: Compared) -> Sequence[Claim]:
    found = []
    for change in changes(compared):
        blocked = change.of(parts=("blocked",))
        ns = total(blocked)
        if abs(ns) < MIN_SHARE * max(change.shift.a_ns_per_token, 1.0):
            continue
        more = "more" if ns > 0 else "less"
        found.append(
            Claim(
                Cause(
                    claim=f"Threads of the pool sleep {more} inside of operators",
                    kind="blocking",
                    share=None,
                    confidence="medium",
                    evidence=(f"asleep or stopped outside of barriers: {in_ms(abs(ns))} per {change.per} {more}",),
                    next="Record with --resources pthread,futex to see who holds what they wait for; "
                    "the slow run's report shows where, by stack.",
                    phase=change.phase,
                ),
                grown(blocked, 1.0 if ns > 0 else -1.0),
            )
        )
    return found
