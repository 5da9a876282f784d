"""The engine's threads may use fewer processors than before.

Fires when the affinities of the pool's threads (at the end of the recordings; the process's own where no thread of the
pool was seen) allow another number of processors, and the smaller number is less than the threads need: than there are
in the pool. The threads then take turns: they wait for a processor, and for each other at barriers, and with cold
caches their own work takes longer. What grew of all these in the phase is explained, of graphs and of the time between.

What to do: look at taskset, --cpu-mask, docker --cpuset-cpus, cgroup cpusets and the pod's CPU limits.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.analyzers.absence import of_processors
from flowprof.profiler.diff.causes.change import changes, grown
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.causes.setup import agreed, processors, threads_estimated, threads_seen
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Side


def causes(compared: Compared) -> Sequence[Claim]:
    before, after = (agreed(side, processors) or 0 for side in (compared.pair.a, compared.pair.b))
    if not before or not after or before == after:
        return []
    tight = compared.pair.b if after < before else compared.pair.a
    threads = _threads(tight)
    if threads <= min(before, after):
        return []
    found = []
    for change in changes(compared):
        sign = 1.0 if after < before else -1.0
        explains = grown(change.of(lambda row: row.a_ns_per_token is not None), sign)
        found.append(
            Claim(
                Cause(
                    claim=f"The engine's threads may use {of_processors(after)} instead of {before}, and there are "
                    f"{threads} of them" if after < before
                    else f"The engine's threads may use {of_processors(after)} instead of {before}",
                    kind="processors",
                    share=None,
                    confidence="high",
                    evidence=(
                        f"processors in the affinities of the pool's threads: {before} → {after}; {threads} threads",
                    ),
                    next="Look at taskset, --cpu-mask, docker --cpuset-cpus and cgroup cpusets; or start it with "
                    f"--threads {min(before, after)}.",
                    phase=change.phase,
                ),
                explains,
            )
        )  # fmt: skip
    return found


def _threads(side: Side) -> int:
    seen = agreed(side, threads_seen) or {}
    return max(seen.values()) if seen else agreed(side, threads_estimated) or 0
