"""Other programs of the host, and how many processors they used while each side was recorded. Part of the causes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from flowprof.profiler.diff.side import Pair, Side

LEAST = 0.25  # of one processor: who gained less is nobody's trouble
NEIGHBOURS_SQL = """
SELECT comm, pid, cpu_ns / (SELECT max(end_ns) - min(start_ns) FROM probe_window) AS used FROM neighbour
WHERE used IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Used:
    """Processors that a program used, on average. `pid` in the later side; 0: several, that ended meanwhile."""

    comm: str
    pid: int
    a: float
    b: float

    @property
    def name(self) -> str:
        return f"{self.comm} ({self.pid})" if self.pid else "short-lived programs"

    @property
    def told(self) -> str:
        return f"{self.name} used {self.a:.2f} → {self.b:.2f} processors"


def more_used(pair: Pair, sign: float = 1.0) -> list[Used]:
    """Programs, by name, that used LEAST more (sign -1: less) on side b; the largest difference first."""
    a, b = _used(pair.a), _used(pair.b)
    found = [
        Used(comm, (b if comm in b else a)[comm][0], a.get(comm, (0, 0.0))[1], b.get(comm, (0, 0.0))[1])
        for comm in {**a, **b}
    ]
    return sorted((one for one in found if sign * (one.b - one.a) >= LEAST), key=lambda one: -sign * (one.b - one.a))


def _used(side: Side) -> dict[str, tuple[int, float]]:
    """comm → (pid of the busiest, processors used); the mean over the side's recordings."""
    found: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    busiest: dict[str, float] = {}
    for recording in side.recordings:
        for comm, pid, used in recording.rows(NEIGHBOURS_SQL):
            so_far = found[comm]
            first = used >= busiest.get(comm, 0.0)
            busiest[comm] = max(used, busiest.get(comm, 0.0))
            found[comm] = (pid if first else so_far[0], so_far[1] + used / len(side.recordings))
    return dict(found)
