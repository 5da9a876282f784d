"""How an engine was set up on a side, as its recordings show it: threads of its pool, and processors that they may use.

Recordings of a side are repeats of one set-up: where they disagree, nothing is known of the side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.diff.side import Side
from flowprof.profiler.store import Recording, read_sql

T = TypeVar("T")
SEEN_SQL = """
WITH last AS (  -- some of each phase: the operators are many
    SELECT e.exec_id, g.phase FROM graph_exec e JOIN graph g USING (graph_id) WHERE e.level = 'thread'
    QUALIFY row_number() OVER (PARTITION BY g.phase ORDER BY e.exec_id DESC) <= 50
)
SELECT l.phase, count(DISTINCT o.ith) FROM op_exec o JOIN last l USING (exec_id) GROUP BY l.phase
"""
AFFINITY_SQL = "SELECT DISTINCT cpus FROM thread WHERE ith IS NOT NULL AND cpus <> ''"
ALLOWED_SQL = "SELECT max(cpus_allowed) FROM process"
INSTRUCTIONS_SQL = "SELECT instructions FROM module WHERE engine = 'ggml' AND instructions IS NOT NULL"
MAX_PROCESSORS = 4096


def agreed(side: Side, what: Callable[[Recording], T]) -> T | None:
    """What all recordings of a side say; None where they differ."""
    found = [what(recording) for recording in side.recordings]
    return found[0] if all(one == found[0] for one in found) else None


@once
def threads_seen(recording: Recording) -> dict[str, int]:
    """Threads of the pool by phase, counted in thread windows. Empty without them."""
    return {phase: int(count) for phase, count in recording.rows(SEEN_SQL) if count}


@once
def threads_estimated(recording: Recording) -> int:
    """By their processor time (verdict_threads.sql); 0 unknown."""
    return max((int(count) for _, count in recording.rows(read_sql("verdict_threads.sql"))), default=0)


@once
def processors(recording: Recording) -> int:
    """That the pool's threads may use, all together; 0 unknown."""
    allowed: set[int] = set()
    for (text,) in recording.rows(AFFINITY_SQL):
        allowed |= numbers(text)
    return len(allowed) or int(recording.rows(ALLOWED_SQL)[0][0] or 0)


@once
def instructions(recording: Recording) -> frozenset[str] | None:
    """Sets that the engine's kernels use; None: its build does not say."""
    builds_say = [str(sets).split() for (sets,) in recording.rows(INSTRUCTIONS_SQL)]
    return frozenset(name for sets in builds_say for name in sets) if builds_say else None


def numbers(text: str) -> set[int]:
    """A list like 0-3,8 in full; what is no number is left out."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found |= set(range(int(first), min(int(last or first), MAX_PROCESSORS) + 1))
    return found
