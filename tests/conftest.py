"""What the tests share: real engines, the command line, and when a test may be skipped.

A test that needs root, BPF or an engine is skipped where the host cannot give it; where the host can (root, and the
kernel takes BPF programs, as in CI) it must run: a skip is then a failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from flowprof.examples import llama_server, synthetic_model
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.machine import kernel
from unprivileged import as_nobody

# Started in the background or by nohup we would hand "ignore this signal" down to every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
CAN_RECORD = os.geteuid() == 0 and kernel.try_bpf() is None
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MUST_RUN = ("bpf", "engine") if CAN_RECORD else ()

StartServer = Callable[..., RunningServer]
RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("bpf") and not CAN_RECORD:
        pytest.skip("needs root and a kernel that takes BPF programs")
    if item.get_closest_marker("browser") and CHROMIUM is None:
        pytest.skip("needs Chromium")
    if item.get_closest_marker("gpu") and shutil.which("nvidia-smi") is None:
        pytest.skip("needs a GPU")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and any(map(item.get_closest_marker, MUST_RUN)):
        report.outcome = "failed"
        report.longrepr = f"skipped on a host where it must run: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def model() -> Callable[[str], Path]:
    """The path of a synthetic model by its kind (`tiny`, `dense-150m`, `dense-1b`, `moe`), written when missing."""
    return synthetic_model.write


@pytest.fixture(scope="session")
def shared_server() -> Iterator[StartServer]:
    """`shared_server(kind, threads=2, slots=1)`: a llama-server that lives until the last test; do not harm it."""
    running: dict[tuple[str, int, int], RunningServer] = {}

    def start(kind: str = "tiny", threads: int = 2, slots: int = 1) -> RunningServer:
        key = (kind, threads, slots)
        if key not in running or running[key].process.poll() is not None:
            running[key] = llama_server.start(synthetic_model.write(kind), threads=threads, slots=slots)
        return running[key]

    yield start
    for server in running.values():
        server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[StartServer]:
    """`own_server(kind, **options of llama_server.start)`: one of the test's own, to kill or to burden."""
    running: list[RunningServer] = []

    def start(kind: str = "tiny", **options: object) -> RunningServer:
        log = tmp_path / f"server-{len(running)}.log"
        server = llama_server.start(synthetic_model.write(kind), log=log, **options)
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def flowprof(tmp_path: Path) -> RunCli:
    """`flowprof("report", file, cwd=…, env={…})`: the command in a process of its own, in `tmp_path` unless told.

    nobody: without rights, when we have some.
    """

    def run(
        *arguments: object,
        timeout: float = 120,
        env: dict[str, str] | None = None,
        cwd: Path = tmp_path,
        nobody: bool = False,
        **options: object,
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flowprof.profiler.cli", *map(str, arguments)]
        return subprocess.run(
            as_nobody(*command) if nobody else command,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            check=False,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium for headless use."""
    assert CHROMIUM is not None
    return CHROMIUM
