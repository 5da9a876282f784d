"""The command under way, and servers that generate meanwhile, for tests of what happens while flowprof records."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flowprof.examples import load
from flowprof.examples.llama_server import RunningServer

IN_PLACE = "recording; Ctrl-C ends it"


class Flowprof:
    """The command under way, its standard error read as it comes."""

    def __init__(self, *arguments: object, cwd: Path, env: dict[str, str] | None = None, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flowprof.profiler.cli", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env={**os.environ, **(env or {})},
            start_new_session=True, preexec_fn=_mind_ctrl_c, **options,
        )  # fmt: skip
        self.said, self.printed = "", ""
        self._readers = [threading.Thread(target=self._hear), threading.Thread(target=self._read)]
        for reader in self._readers:
            reader.start()

    def _hear(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.printed = self.process.stdout.read()

    def until(self, words: str = IN_PLACE, seconds: float = 60) -> Flowprof:
        """Wait until it has said `words` on standard error."""
        deadline = time.monotonic() + seconds
        while words not in self.said:
            assert time.monotonic() < deadline and self.process.poll() is None, f"no {words!r} in {self.said!r}"
            time.sleep(0.02)
        return self

    def end(self, seconds: float = 60) -> int:
        """Its exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(10)
        assert "Traceback" not in self.said and "internal error" not in self.said, self.said
        return code


def _mind_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test runner in the background ignores it


class Load:
    """Requests that follow one another. `more(n)` waits until n more have been answered: hosts differ in speed."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.answered = 0

    def drive(self, server: RunningServer) -> None:
        with contextlib.suppress(OSError, ValueError):  # a server that is gone; an answer cut short
            while not self.stop.is_set():
                load.request(server.url, n_predict=24, prompt_tokens=8)
                self.answered += 1

    def more(self, requests: int = 2, seconds: float = 60) -> None:
        wanted = self.answered + requests
        until(lambda: self.answered >= wanted, seconds)


@contextlib.contextmanager
def busy(*servers: RunningServer) -> Iterator[Load]:
    """The servers generate while the block runs; their end is no error."""
    driven = Load()
    drivers = [threading.Thread(target=driven.drive, args=(server,)) for server in servers]
    for driver in drivers:
        driver.start()
    try:
        yield driven
    finally:
        driven.stop.set()
        for driver in drivers:
            driver.join(60)


def answers(server: RunningServer) -> bool:
    return load.request(server.url, n_predict=4, prompt_tokens=4).predicted_n == 4


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
