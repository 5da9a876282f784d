"""llama-server's requests from their events: queued, on a slot, answered, done. Bounded: finished ones are handed out.

The tokens of the slots, the parts of the batches, and what becomes of KV cells are rows as they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flowprof.profiler.kernel_side import ring
from numpy.typing import NDArray

MAX_OPEN = 100_000
SETTLED_NS = 10_000_000_000  # a result that comes so long after the end does not come
_NO_ID = 0xFFFFFFFF
_SLOTS = 1 << 16  # more than any server has: other numbers are none


@dataclass(slots=True)
class _Request:
    task_id: int
    slot: int | None = None
    posted_ns: int | None = None
    started_ns: int | None = None
    released_ns: int | None = None
    first_result_ns: int | None = None
    last_result_ns: int | None = None
    results: int = 0
    done_ns: int | None = None


class Requests:
    """The requests of one process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._open: dict[int, _Request] = {}
        self._on_slot: dict[int, _Request] = {}
        self._latest_ns = 0
        self.dropped = 0  # events of requests for which there was no room

    def add(self, events: NDArray[np.void]) -> None:
        """Take events of requests and slots, in order of time (a few per token at most)."""
        for kind, at, task, slot in zip(
            events["kind"].tolist(), events["at_ns"].tolist(), events["a"].tolist(), events["b"].tolist(), strict=True
        ):
            self._latest_ns = at
            if kind == ring.SLOT_RELEASE:
                holder = self._on_slot.pop(task, None)
                if holder is not None:
                    holder.released_ns = at
                continue
            if task == _NO_ID:
                continue
            if task not in self._open and len(self._open) >= MAX_OPEN:
                self.dropped += 1
                continue
            request = self._open.get(task)
            if request is None or (kind in (ring.REQUEST_POST, ring.SLOT_START) and request.done_ns is not None):
                if kind == ring.REQUEST_DONE:
                    continue  # its answers were before the recording
                request = self._open[task] = _Request(int(task))
            if kind == ring.REQUEST_POST:
                request.posted_ns = at
            elif kind == ring.SLOT_START:
                request.started_ns, request.slot = at, int(slot) if slot < _SLOTS else None
                self._on_slot[int(slot)] = request
            elif kind == ring.REQUEST_RESULT:
                request.first_result_ns = request.first_result_ns or at
                request.last_result_ns = at
                request.results += 1
                if slot < _SLOTS:
                    request.slot = int(slot)
                    if request.started_ns is None and not request.results > 1:
                        self._on_slot.setdefault(int(slot), request)  # it has been there since before the recording
            else:
                request.done_ns = at

    def take(self, everything: bool = False) -> dict[str, list[object]]:
        """Columns of the finished requests (of all, at the end), which are forgotten here."""
        held = {id(request) for request in self._on_slot.values()}
        settled = self._latest_ns - SETTLED_NS
        ready = [
            r for r in self._open.values()
            if everything or (r.done_ns is not None and (r.results or r.done_ns < settled) and id(r) not in held)
        ]  # fmt: skip
        for request in ready:
            del self._open[request.task_id]
        return {
            "pid": [self.pid] * len(ready),
            "task_id": [r.task_id for r in ready],
            "slot": [r.slot for r in ready],
            "posted_ns": [r.posted_ns for r in ready],
            "started_ns": [r.started_ns for r in ready],
            "released_ns": [r.released_ns for r in ready],
            "first_result_ns": [r.first_result_ns for r in ready],
            "end_ns": [None if r.done_ns is None else r.last_result_ns for r in ready],
            "results": [r.results for r in ready],
        }


def token_rows(events: NDArray[np.void], pid: int) -> dict[str, object]:
    """Table `slot_token`: a row per event."""
    known = events[events["a"] < _SLOTS]
    return {"pid": pid, "slot": known["a"].astype(np.int32), "at_ns": known["at_ns"]}


def part_rows(events: NDArray[np.void], pid: int) -> dict[str, object]:
    """Table `batch_part`: a row per event."""
    return {
        "pid": pid,
        "tid": events["tid"],
        "at_ns": events["at_ns"],
        "context": events["ith"],
        "sequence": events["a"].astype(np.int32),
        "tokens": events["b"].astype(np.int32),
        "position": events["c"].astype(np.int32),
        "output": events["d"] != 0,
    }


def cell_rows(events: NDArray[np.void], pid: int) -> dict[str, object]:
    """Table `kv_event`: a row per event."""
    freed = events["kind"] == ring.CELLS_FREED
    a, b = events["a"], events["b"]

    def number(half: NDArray[np.integer[Any]]) -> np.ma.MaskedArray[tuple[int], np.dtype[np.int32]]:
        return np.ma.masked_array(half.astype(np.uint32).view(np.int32), ~freed)

    return {
        "pid": pid,
        "tid": events["tid"],
        "at_ns": events["at_ns"],
        "what": np.where(freed, "freed", "refused"),
        "place": np.where(freed, a >> 32, a).astype(np.int64),
        "sequence": number(a),
        "from_position": number(b),
        "to_position": number(b >> 32),
    }
