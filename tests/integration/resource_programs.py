"""A compiled program of these tests, and its whole work recorded."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowprof.profiler.resources.manifest import Manifest
from recorded import Run, recording_of


def built(folder: Path, source: str, *flags: str) -> Path:
    path = folder / "program"
    subprocess.run(["gcc", "-O2", "-o", path, Path(__file__).with_name(source), *flags, "-lpthread"], check=True)
    return path


def wait_until_loaded(pid: int) -> None:
    """Popen returns when the new program has been accepted, which is before it is there."""
    while "libc" not in Path(f"/proc/{pid}/maps").read_text():
        pass


@contextmanager
def started(program: Path) -> Iterator[subprocess.Popen[str]]:
    """The program, which waits for its first line of input."""
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            wait_until_loaded(running.pid)
            yield running
        finally:
            running.kill()


def work(running: subprocess.Popen[str]) -> str:
    """Let it do its work; the line that it prints. Its second reading waits to the end."""
    assert running.stdin and running.stdout
    running.stdin.write("\n")
    running.stdin.flush()
    return running.stdout.readline()


@contextmanager
def recorded(program: Path, path: Path, *manifests: Manifest) -> Iterator[tuple[Run, str]]:
    """The program's whole work, recorded; and the line that it prints."""
    with (
        started(program) as running,
        recording_of([running.pid], path, manifests=manifests, levels=("token", "graph")) as run,
    ):
        yield run, work(running)
