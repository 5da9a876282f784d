"""Recordings of a llama-server whose requests, tokens and batches are written down here, by the millisecond.

`Server` writes what the slots of one process would have done. A batch takes what it is told to take, and whatever is
chosen comes at its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowprof.profiler.store import Recording

PID, START, MS = 77, 1_000_000_000, 1_000_000


def at(ms: float) -> int:
    return START + round(ms * MS)


@dataclass
class Server:
    """`request`, `batch` and `write`, in this order."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[tuple[int, float]] = field(default_factory=list)
    batches: list[tuple[float, float, int, list[tuple[int, int, int, bool]]]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)

    def request(
        self, task: int, slot: int | None, posted: float | None, started: float | None, released: float | None,
        results: int = 1, end: bool = True,
    ) -> None:  # fmt: skip
        self.requests.append({
            "pid": PID, "task_id": task, "slot": slot, "posted_ns": None if posted is None else at(posted),
            "started_ns": None if started is None else at(started), "first_result_ns": None,
            "released_ns": None if released is None else at(released),
            "end_ns": at(released) if end and released is not None else None, "results": results,
        })  # fmt: skip

    def batch(self, begin: float, end: float, *parts: tuple[int, int, int, bool], context: int = 1) -> None:
        """A graph. parts: slot, tokens, position of the first, whether a token comes out of it."""
        self.batches.append((begin, end, context, list(parts)))
        self.tokens += [(slot, end) for slot, _, _, output in parts if output]

    def freed(self, now: float, sequence: int, first: int, to: int, place: int = 1) -> None:
        """A sequence gives back the cells of its tokens from `first` to `to`."""
        self.cells.append({
            "pid": PID, "tid": PID, "at_ns": at(now), "what": "freed", "place": place, "sequence": sequence,
            "from_position": first, "to_position": to,
        })  # fmt: skip

    def refused(self, now: float, context: int = 1) -> None:
        """A batch finds no room."""
        self.cells.append({"pid": PID, "tid": PID, "at_ns": at(now), "what": "refused", "place": context})

    def write(self, path: Path, **meta: str) -> Recording:
        with Recording.create(str(path)) as recording:
            recording.append("probe_window", {
                "window_id": [1], "level": ["token"], "start_ns": [START], "end_ns": [at(10_000)],
                "graphs": [len(self.batches)], "tokens": [1], "hits": [0], "losses": [0],
            })  # fmt: skip
            for key, value in {"started_ns": str(START), "stopped_ns": str(at(10_000)), **meta}.items():
                recording.set_meta(key, value)
            for row in self.requests:
                recording.append("request", {name: [value] for name, value in row.items()})
            for row in self.resources:
                recording.append("resource", {name: [value] for name, value in row.items()})
            for row in self.cells:
                recording.append("kv_event", {name: [value] for name, value in row.items()})
            if self.tokens:
                slots, times = zip(*self.tokens, strict=True)
                recording.append("slot_token", {"pid": PID, "slot": list(slots), "at_ns": [at(ms) for ms in times]})
            if self.batches:
                self._write_batches(recording)
        return Recording.open(str(path))

    def _write_batches(self, recording: Recording) -> None:
        begins, ends, _, _ = zip(*self.batches, strict=True)
        recording.append("graph_exec", {
            "exec_id": list(range(len(begins))), "pid": PID, "tid": PID, "graph_id": 1, "window_id": 1,
            "start_ns": [at(ms) for ms in begins], "end_ns": [at(ms) for ms in ends], "level": "token",
        })  # fmt: skip
        rows = [(at(begin), context, *part) for begin, _, context, parts in self.batches for part in parts]
        names = ("at_ns", "context", "sequence", "tokens", "position", "output")
        columns = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
        recording.append("batch_part", {"pid": PID, "tid": PID, **columns})


def chats_and_prompt(steps: int = 30, long_at: int = 15) -> Server:
    """Two chats decode a step of 10 ms each; at step `long_at` a prompt of 1 000 tokens is computed in two batches of
    100 and 150 ms, the first with the chats' tokens in it. So both chats lose 90 + 150 = 240 ms, all to task 9."""
    server = Server()
    now = 0.0
    server.batch(now, now + 20, (0, 8, 0, True), (1, 8, 0, True))
    now = 20.0
    for step in range(steps):
        if step == long_at:
            server.batch(now, now + 100, (0, 1, 8 + step, False), (1, 1, 8 + step, False), (2, 500, 0, False))
            server.batch(now + 100, now + 250, (2, 500, 500, True))
            server.tokens += [(0, now + 250), (1, now + 250)]
            begun, now = now, now + 250
        else:
            server.batch(now, now + 10, (0, 1, 8 + step, True), (1, 1, 8 + step, True))
            now += 10
    server.request(3, 0, -1, 0, now, results=31)
    server.request(4, 1, -1, 0, now, results=31)
    server.request(9, 2, begun - 5, begun - 2, begun + 251)
    return server
