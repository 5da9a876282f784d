"""A C program that calls CUDA as it is told, on a stub of the runtime, and the report of a recording of it.

No GPU is needed: the stub's streams are queues in time, so that every duration is known (cuda/stub.c). The programs
that use this plant one cause each, like those of planted.py; they need gcc:

    sudo .venv/bin/python -m flowprof.examples.serialised_streams [-o FILE] [-d SECONDS]
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowprof.examples.planted import FLOWPROF, asked_for, every, where

SOURCES = Path(__file__).with_name("cuda")
RUNTIME = "libcudart.so.12"


@dataclass(frozen=True, slots=True)
class Called:
    """A cause and the finding that it must lead to. order: what the program is told, again and again."""

    finding: str
    order: str
    kernel_us: int = 10  # what a kernel takes


def show(called: Called, arguments: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit status."""
    asked = asked_for(called.finding, "4s", arguments)
    with tempfile.TemporaryDirectory() as folder:
        stub = compiled(Path(folder), "stub.c", shared=RUNTIME, flags=(f"-DKERNEL_US={called.kernel_us}",))
        path = compiled(Path(folder), "program.c", flags=(str(stub),))
        with Program(path, stub.parent) as program, every(0.0, lambda: program.tell(called.order, 10)):
            command = ["attach", str(program.pid), "-d", asked.duration, "--full", "--levels", "token,op"]
            status = subprocess.run([*FLOWPROF, *command, "-f", "-o", asked.output], check=False).returncode
    return status or where(called.finding, asked.output)


def compiled(folder: Path, *sources: str, shared: str = "", flags: tuple[str, ...] = ()) -> Path:
    """The program, or the library of that name, from cuda/. Raises CalledProcessError or FileNotFoundError (no gcc)."""
    path = folder / (shared or "program")
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = ["-shared", "-fPIC", f"-Wl,-soname,{shared}"] if shared else []
    given = [*kind, "-o", str(path), *(str(SOURCES / source) for source in sources), *flags]
    subprocess.run(["gcc", "-O1", "-w", "-fno-omit-frame-pointer", *given], check=True)
    return path


class Program:
    """The program, running; `tell` returns when it has done as it was told. `streams`: the handles of its two.

    device: a file; programs with the same one share a device, and slow each other down.
    """

    def __init__(self, path: Path, libraries: Path, device: Path | None = None) -> None:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
        if device is not None:
            environment["STUB_DEVICE"] = str(device)
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.pid = self.process.pid
        self.streams = self._answer()

    def _answer(self) -> tuple[int, ...]:
        line = self.process.stdout.readline() if self.process.stdout else b""
        if not line:
            raise RuntimeError(f"the program has ended with {self.process.wait()}")
        return tuple(int(word, 16) for word in line.split())

    def tell(self, what: str, times: int = 1) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what} {times}\n".encode())
        self.process.stdin.flush()
        self._answer()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()
