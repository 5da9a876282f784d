"""A program on one processor, and on another this process, which attaches probes to it, takes them off and reads the
rings meanwhile, as the recorder does."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flowprof.profiler.kernel_side.probes_in_place import ProbesInPlace

ON_ITS_OWN = ("taskset", "-c", "0")  # before a target's command
_OWN_CPU = 1
_READ_S = 0.02

Program = subprocess.Popen[str]


@contextmanager
def on_another() -> Iterator[None]:
    """With this process on a processor that the target does not use, where there is one."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(_OWN_CPU, max(own))})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@contextmanager
def answering(
    source: str, *flags: str, before: Sequence[str] = ON_ITS_OWN, arguments: Sequence[str] = ()
) -> Iterator[Program]:
    """A C program that runs, says "ready", and answers each number that it is sent (`ask`), until the block ends.

    before: words before the command, such as those of taskset.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program")
        subprocess.run(["gcc", "-O2", "-x", "c", "-o", path, "-", *flags], input=source, text=True, check=True)
        command = [*before, path, *arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
            try:
                assert program.stdout and program.stdout.readline() == "ready\n"
                yield program
            finally:
                program.kill()


def ask(program: Program, count: int) -> float:
    """Seconds for each of `count` rounds of what the program does, as it says."""
    assert program.stdin and program.stdout
    program.stdin.write(f"{count}\n")
    program.stdin.flush()
    return float(program.stdout.readline())


@contextmanager
def rings_read(probes: ProbesInPlace) -> Iterator[None]:
    """With a thread that reads the rings; it has ended before the block's end is left."""
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(_READ_S):
            probes.rings.read()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        ended.set()
        reader.join()


def halves(number: int) -> tuple[bool, bool]:
    """Whether probes are in place in the two halves of pair `number`: the order alternates."""
    return (True, False) if number % 2 else (False, True)
