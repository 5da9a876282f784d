"""Fixtures of tests on live processes: servers to plant waits in (undisturbed.py), the command under way, toys."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium
from flowprof.examples import llama_server, load, synthetic_model
from flowprof.examples.llama_server import RunningServer
from toy_engine import build
from under_way import Flowprof
from undisturbed import CPUS, first_in_line


@pytest.fixture(scope="module")
def recorder_first_in_line() -> Iterator[None]:
    """The recorder is no part of the disturbance, and must not starve beside servers of high priority."""
    own = Path("/proc/self/autogroup")
    words = own.read_text().split() if own.exists() else []  # /autogroup-7 nice 0; nothing outside of all sessions
    before = int(words[-1]) if words else os.getpriority(os.PRIO_PROCESS, 0)
    if words:
        first_in_line(os.getpid())
    else:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    yield
    if words:
        own.write_text(str(before))
    else:
        os.setpriority(os.PRIO_PROCESS, 0, before)


@pytest.fixture
def server(recorder_first_in_line: None) -> Iterator[Callable[..., RunningServer]]:
    """`server(kind or path, **options)`: a server of the test's own, on two processors, before everybody else."""
    yield from _servers()


@pytest.fixture(scope="module")
def quiet_server(recorder_first_in_line: None) -> Iterator[Callable[..., RunningServer]]:
    """The same for all tests of a module."""
    yield from _servers()


def _servers() -> Iterator[Callable[..., RunningServer]]:
    running: list[RunningServer] = []

    def start(model: str | Path, nice: int = -10, wrapper: tuple[str, ...] = (), **options: object) -> RunningServer:
        path = model if isinstance(model, Path) else synthetic_model.write(model)
        more = nice - os.getpriority(os.PRIO_PROCESS, 0)  # `nice` adds to what its caller has
        bound = ("setsid", "taskset", "-c", ",".join(map(str, CPUS)), "nice", "-n", str(more), *wrapper)
        running.append(llama_server.start(path, wrapper=bound, **options))
        first_in_line(running[-1].pid)
        load.request(running[-1].url, n_predict=4, prompt_tokens=8)  # a first request is slower
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Flowprof]]:
    """`start("attach", pid, …)`: a Flowprof; what still runs after the test is killed."""
    running: list[Flowprof] = []

    def begin(*arguments: object, **options: Any) -> Flowprof:
        running.append(Flowprof(*arguments, cwd=options.pop("cwd", tmp_path), **options))
        return running[-1]

    yield begin
    for one in running:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        one.process.wait()


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The toy's program and two libraries."""
    return build(tmp_path_factory.mktemp("toy"), 2)
