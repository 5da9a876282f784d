"""Whether both sides run the same builds of their engines.

By build ids where both sides know an engine's, for one build may be called two things (0.26.0, 0.26.0 unknown); by
versions only where one of them knows none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from flowprof.profiler.analyzers.contract import once
from flowprof.profiler.store import Recording

SHOWN = 12  # characters of a build id
BUILD_SQL = """
SELECT DISTINCT engine, coalesce(engine_version, ''), coalesce(build_id, '') FROM module
WHERE engine IS NOT NULL AND coalesce(engine_version, build_id) IS NOT NULL ORDER BY ALL LIMIT 20
"""


class Build(NamedTuple):
    """One binary of an engine. "": not known."""

    engine: str
    version: str
    build_id: str

    def __str__(self) -> str:
        return " ".join(filter(None, (self.engine, self.version, self.build_id[:SHOWN])))


@once
def builds(recording: Recording) -> tuple[Build, ...]:
    """Of all engines' binaries; those of which neither version nor build id is known are left out."""
    return tuple(Build(str(engine), str(version), str(build)) for engine, version, build in recording.rows(BUILD_SQL))


def only(a: Iterable[Build], b: Iterable[Build]) -> tuple[tuple[Build, ...], tuple[Build, ...]]:
    """What only one of the sides runs, of engines that both run."""
    a, b = tuple(a), tuple(b)
    return _without(a, b), _without(b, a)


def _without(some: tuple[Build, ...], others: tuple[Build, ...]) -> tuple[Build, ...]:
    found = []
    for one in some:
        there = [other for other in others if other.engine == one.engine]
        ids, versions = {other.build_id for other in there} - {""}, {other.version for other in there} - {""}
        mine, theirs = (one.build_id, ids) if one.build_id and ids else (one.version, versions)
        if mine and theirs and mine not in theirs:
            found.append(one)
    return tuple(found)
