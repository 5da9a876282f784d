"""A real PyTorch for tests: a virtual environment in the cache folder, and programs that a test steers in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flowprof.profiler import cache
from recorded import Run, recording_of

VERSION = "2.13.0"
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"  # PyPI's own builds for x86-64 are for CUDA, several GB
INSTALL_S = 900


def python() -> Path:
    """Its interpreter; installed when it is missing. Skips where it cannot be had."""
    folder = cache.made() / f"torch-{VERSION}"
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").exists():
        pip = [interpreter, "-m", "pip", "install", "--quiet", "--retries", "0", "--extra-index-url", CPU_BUILDS]
        for command in ([sys.executable, "-m", "venv", "--clear", folder], [*pip, f"torch=={VERSION}", "numpy"]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            if done.returncode:
                pytest.skip(f"torch {VERSION} cannot be had: {done.stderr.strip().splitlines()[-1:]}")
        (folder / "complete").touch()
    return interpreter


class Program:
    """A program under way; it prints a line of JSON when it is ready, and after each line that it is sent."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self.ready = self.answer()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the program has ended with status {self._process.wait()}"
        return json.loads(line)

    def ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.answer()


@contextmanager
def running(program: str, *before: str, executable: Path | None = None, **environment: str) -> Iterator[Program]:
    """A program in torch's interpreter. before: words before the command, such as those of taskset."""
    command = [*before, str(executable or python()), "-c", program]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **environment})
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def recorded(pid: int | Sequence[int], path: Path, **options: object) -> Iterator[Run]:
    """Recorded from the moment on at which operators are probed."""
    pids = [pid] if isinstance(pid, int) else pid
    with recording_of(pids, path, **{"levels": ("op",), "budget": None, **options}) as run:
        deadline = time.monotonic() + 60
        while run.recorder.progress.level != "op":
            assert time.monotonic() < deadline, "no window of operators in a minute"
            time.sleep(0.01)
        yield run
