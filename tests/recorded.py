"""Record a running process from within a test: `with recording_of([pid], path, …) as run:`, as `flowprof attach` does.

The recorder runs in a thread of the test, and the block begins when its probes are in place; so whole requests can be
sent inside it. `read(path, sql)` queries the finished file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flowprof.probes import engines
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import make_plan, require_engine
from flowprof.profiler.record.options import Options
from flowprof.profiler.record.recorder import Progress, Recorder
from flowprof.profiler.store import Recording
from flowprof.profiler.target import open_target


class _Watched(Recording):
    """Remembers what ggml was told to compute, before what was seen is weighed against it."""

    computed: dict[int, np.ndarray]  # graph → one bool per node, leaves included

    def append(self, table: str, columns: Any) -> int:
        if table == "graph_node":
            self.__dict__.setdefault("computed", {})
            graph_ids, executes = np.asarray(columns["graph_id"]), np.asarray(columns["executes"])
            self.computed.update((int(graph_id), executes[graph_ids == graph_id]) for graph_id in np.unique(graph_ids))
        return super().append(table, columns)


class Run:
    """A recording under way. `recorder` and `plan` as the test needs them; `progress` once the block is over."""

    @property
    def computed(self) -> dict[int, np.ndarray]:
        """Graph → which of its nodes (then leaves) ggml was told to compute."""
        return self._recording.computed

    def __init__(self, pids: Sequence[int], path: Path, options: dict[str, Any]) -> None:
        self.path = path
        self.placed = threading.Event()
        self.error: BaseException | None = None
        self.progress = Progress()
        targets = [open_target(pid) for pid in pids]
        known = engines(options.get("torch_ops", ""))
        self.plan = make_plan(targets, kernel.version(), known, manifests=options.get("manifests", ()))
        require_engine(self.plan)
        self._recording = _Watched.create(str(path), overwrite=True)
        release = options.pop("release", lambda: None)

        def released() -> None:
            self.placed.set()
            release()

        self.recorder = Recorder(self.plan, self._recording, Options(release=released, **options))
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.progress = self.recorder.run()
        except BaseException as error:
            self.error = error
        finally:
            self._recording.close()
            self.placed.set()

    def begin(self) -> None:
        self._thread.start()
        assert self.placed.wait(60), "the probes are not in place after a minute"
        if self.error is not None:
            raise self.error

    def warm_up(self, level: str, work: Callable[[], object], seconds: float = 60) -> None:
        """Repeat `work` until the first graphs have been described and windows of `level` are open."""
        deadline = time.monotonic() + seconds
        while not self.recorder.progress.tokens or self.recorder.progress.level != level:
            assert time.monotonic() < deadline, f"no {level} window after {seconds} s"
            assert self._thread.is_alive(), self.error or "the recorder has ended"
            work()

    def end(self, seconds: float = 60) -> None:
        self.recorder.stop("the test is over")
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the recorder does not end"
        if self.error is not None:
            raise self.error


@contextmanager
def recording_of(pids: Sequence[int], path: Path, **options: Any) -> Iterator[Run]:
    """Record `pids` into `path` while the block runs; `options` are the recorder's."""
    run = Run(pids, path, options)
    run.begin()
    try:
        yield run
    finally:
        run.end()


def read(path: Path, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """The rows of a query on a finished recording."""
    with Recording.open(str(path)) as recording:
        return recording.rows(sql, parameters)
