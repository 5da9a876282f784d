"""llama-server's requests from their events: queued, answered, done. Bounded: finished ones are handed out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flowprof.profiler import ring
from numpy.typing import NDArray

MAX_OPEN = 100_000
_NO_ID = 0xFFFFFFFF


@dataclass(slots=True)
class _Request:
    task_id: int
    slot: int | None = None
    posted_ns: int | None = None
    first_result_ns: int | None = None
    last_result_ns: int | None = None
    results: int = 0
    done: bool = False


class Requests:
    """The requests of one process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._open: dict[int, _Request] = {}

    def add(self, events: NDArray[np.void]) -> None:
        """Take request events, in order of time (a few per token at most)."""
        for kind, at, task, slot in zip(
            events["kind"].tolist(), events["at_ns"].tolist(), events["a"].tolist(), events["b"].tolist(), strict=True
        ):
            if task == _NO_ID or (task not in self._open and len(self._open) >= MAX_OPEN):
                continue
            request = self._open.get(task)
            if request is None or (kind == ring.REQUEST_POST and request.done):
                if kind == ring.REQUEST_DONE:
                    continue  # its answers were before the recording
                request = self._open[task] = _Request(int(task))
            if kind == ring.REQUEST_POST:
                request.posted_ns = at
            elif kind == ring.REQUEST_RESULT:
                request.first_result_ns = request.first_result_ns or at
                request.last_result_ns = at
                request.results += 1
                request.slot = int(slot) if slot < 1 << 16 else request.slot
            else:
                request.done = True

    def take(self, everything: bool = False) -> dict[str, list[object]]:
        """Columns of the finished requests (of all, at the end), which are forgotten here."""
        ready = [r for r in self._open.values() if (r.done and r.results) or everything]
        for request in ready:
            del self._open[request.task_id]
        return {
            "pid": [self.pid] * len(ready),
            "task_id": [r.task_id for r in ready],
            "slot": [r.slot for r in ready],
            "posted_ns": [r.posted_ns for r in ready],
            "first_result_ns": [r.first_result_ns for r in ready],
            "end_ns": [r.last_result_ns if r.done else None for r in ready],
            "results": [r.results for r in ready],
        }
