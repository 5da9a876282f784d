"""How much of what the scheduler told is missing, and what may still be said of waits. For waits.py and verdicts.py.

`passed_over` (the kernel skipped a probe) and `unseen_return` (it did not tell when a thread got a processor again)
lose a stretch off the processor each: that time then counts as work, or at the barrier.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.store import Recording

PLACES = ["passed_over", "unseen_return"]
DOUBTFUL = 0.01  # of the stretches: findings on waits are of low confidence
LIMIT = 0.10  # they are withheld
LOST_SQL = """
SELECT coalesce((SELECT sum(events) FROM loss_by_place WHERE list_contains($places, place)), 0),
       (SELECT count(*) FROM thread_state)
"""


@dataclass(frozen=True, slots=True)
class SchedulerLosses:
    lost: int
    recorded: int  # stretches off the processor

    @property
    def share(self) -> float:
        return self.lost / (self.lost + self.recorded) if self.lost else 0.0

    @property
    def doubtful(self) -> bool:
        return self.share > DOUBTFUL

    @property
    def withheld(self) -> bool:
        return self.share > LIMIT

    @property
    def words(self) -> str:
        """For a line of evidence."""
        return f"{self.share * 100:.1f} % of the scheduler's events were lost: waits may be incomplete"


@once
def scheduler_losses(recording: Recording) -> SchedulerLosses:
    """None where nothing is recorded."""
    lost, recorded = recording.rows(LOST_SQL, {"places": PLACES})[0]
    return SchedulerLosses(int(lost), int(recorded))
