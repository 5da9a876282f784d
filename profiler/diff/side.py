"""One side of a diff: recordings that belong together (repeats of a normal run, or the one slow run)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowprof.profiler.store import Recording

SPAN_SQL = """
SELECT min(first), max(last) FROM (
    SELECT min(start_ns) AS first, max(coalesce(end_ns, start_ns)) AS last FROM graph_exec
    UNION ALL SELECT min(start_ns), max(coalesce(end_ns, start_ns)) FROM api_call
    UNION ALL SELECT min(start_ns), max(end_ns) FROM gpu_slice
    UNION ALL SELECT min(at_ns), max(at_ns) FROM resource_event
)
"""


@dataclass(frozen=True, slots=True)
class Side:
    """`name` is normal or buggy (before or after). Recordings of a side are repeats of one set-up."""

    name: str
    recordings: tuple[Recording, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(Path(recording.path).name for recording in self.recordings)


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides: what every comparison gets."""

    a: Side
    b: Side


@contextlib.contextmanager
def open_pair(normal: Sequence[str], buggy: str) -> Iterator[Pair]:
    """Raises what Recording.open raises."""
    with contextlib.ExitStack() as stack:
        a = tuple(stack.enter_context(Recording.open(path)) for path in normal)
        b = stack.enter_context(Recording.open(buggy))
        yield Pair(Side("normal", a), Side("buggy", (b,)))


@contextlib.contextmanager
def open_parts(path: str, at_ns: int) -> Iterator[Pair]:
    """One recording as two sides: before and after `at_ns`. Raises what Recording.open raises."""
    with Recording.open(path) as before, Recording.open(path) as after:
        begin, end = span(before)
        before.restrict(begin, at_ns)
        after.restrict(at_ns, end + 1)
        yield Pair(Side("before", (before,)), Side("after", (after,)))


def span(recording: Recording) -> tuple[int, int]:
    """From the first to the last thing that was recorded, ns; (0, 0) when nothing was."""
    first, last = recording.rows(SPAN_SQL)[0]
    return int(first or 0), int(last or 0)


def began(recording: Recording) -> int:
    """When the recorder began, or the first thing was recorded where it does not say; ns."""
    said = recording.meta().get("started_ns", "")
    return int(said) if said.isdigit() else span(recording)[0]
