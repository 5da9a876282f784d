"""Another number of threads computes torch's operators.

Fires in a torch program's step that changed, when both sides recorded how much processor time each thread used
(`counter`), and the threads with 20 % or more of the busiest one's are not as many. As with pools of llama.cpp
(threads.py) an operator's own work may grow to as many times as there were more threads before; up to so much of each
row is explained. Waiting for one another is part of that: the threads of OpenMP spin.

What to do: torch.set_num_threads, OMP_NUM_THREADS and MKL_NUM_THREADS set the number; a container's quota or an
affinity with fewer processors lowers it before the program begins.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowprof.profiler.analyzers.torch_operators import COMPUTES, computing
from flowprof.profiler.diff.causes.change import changes
from flowprof.profiler.diff.causes.claim import Claim
from flowprof.profiler.diff.causes.setup import agreed, processors
from flowprof.profiler.diff.causes.threads import explained
from flowprof.profiler.diff.compared import Compared
from flowprof.profiler.diff.result import Cause
from flowprof.profiler.diff.side import Side
from flowprof.profiler.store import Recording

COUNTED_SQL = "SELECT count(*) > 0 FROM counter WHERE name = 'task_clock_ns' AND value > 0"


def causes(compared: Compared) -> Sequence[Claim]:
    before, after = (_threads(side) for side in (compared.pair.a, compared.pair.b))
    if not before or not after or before == after:
        return ()
    a_cpus, b_cpus = (agreed(side, processors) or 0 for side in (compared.pair.a, compared.pair.b))
    found = []
    for change in changes(compared):
        if not any(row.kind == "torch" for row in change.rows.values()):
            continue
        found.append(
            Claim(
                Cause(
                    claim=f"{'Fewer' if after < before else 'More'} threads compute torch's operators: "
                    f"{before} → {after}",
                    kind="threads",
                    share=None,
                    confidence="high",
                    evidence=(
                        f"threads with {COMPUTES * 100:.0f} % or more of the busiest one's processor time: {before} → "
                        f"{after}",
                        f"processors that they may use: {a_cpus or '?'} → {b_cpus or '?'}",
                    ),
                    next=f"Run it with torch.set_num_threads({before}) or OMP_NUM_THREADS={before} again and compare.",
                    phase=change.phase,
                ),
                explained(change, before, after, bool(b_cpus) and after > b_cpus),
            )
        )
    return found


def _threads(side: Side) -> int:
    return agreed(side, _counted) or 0


def _counted(recording: Recording) -> int:
    """Threads that computed; 0: their processor time was not recorded."""
    return computing(recording) if recording.rows(COUNTED_SQL)[0][0] else 0
