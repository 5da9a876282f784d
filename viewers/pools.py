"""What threads of pools are called. For all viewers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Placed(Protocol):
    """A thread in its pool: a row of Waits or Threads."""

    @property
    def pid(self) -> int: ...
    @property
    def driver_tid(self) -> int: ...
    @property
    def ith(self) -> int: ...


def names(rows: Sequence[Placed]) -> list[str]:
    """ "1" where there is one pool, "4711: 1" where there are several: by their processes, or by the threads that drive
    them where a process has several."""
    pids = {row.pid for row in rows}
    pools = {(row.pid, row.driver_tid) for row in rows}
    if len(pools) <= 1:
        return [f"{row.ith}" for row in rows]
    return [f"{row.pid if len(pools) == len(pids) else row.driver_tid}: {row.ith}" for row in rows]
