"""Plant one trouble with a resource in a small C program, record it, and show the report that names it.

The programs are in resources/, with their manifests; those beside this one are named after the trouble that each
plants, and say in their docstring what is to be seen:

    sudo .venv/bin/python -m flowprof.examples.table_lock_held [-o FILE] [-s SECONDS]

A program knows the truth about itself (who waited how long for what) and tells it at its end. In each a thread that is
to blame for nothing burns most processor time. What was planted is printed beside what the report says first; the exit
status is 1 where they differ (resource_truth.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowprof.examples import resource_truth
from flowprof.profiler import cache

FLOWPROF = (sys.executable, "-m", "flowprof.profiler.cli")
SOURCES = Path(__file__).with_name("resources")
DECOY = "checksum"  # the hottest function, and its thread


@dataclass(frozen=True, slots=True)
class PlantedResource:
    """A trouble. pathology: as the report names it, "": none must be reported. program: pools or waits."""

    program: str
    scenario: str
    seconds: float
    resource: str
    pathology: str = "contention"
    chain: tuple[str, ...] = ()  # resources from what is waited for to the root, where that is not `resource` alone
    ends: str = ""  # where threads' waits for each other end, as the report names it; "": not looked at
    stripped: bool = False
    manifest: str = ""  # "": the program's own

    @property
    def manifests(self) -> str:
        """For --resources."""
        return self.manifest or str(SOURCES / f"{self.program}.toml")

    def command(self, seconds: float | None = None) -> list[str]:
        """What runs it: prints a line, begins at the first line of its input, prints the truth, ends with its input."""
        length = self.seconds if seconds is None else seconds
        return [str(build(self.program, self.stripped)), self.scenario, str(length)]


def build(program: str, stripped: bool = False) -> Path:
    """The compiled program, in the cache folder, unless it is there already. Raises CalledProcessError."""
    sources = [SOURCES / f"{program}.c", SOURCES / "planted.h"]
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    path = cache.made() / "examples" / version / (f"{program}-stripped" if stripped else program)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        subprocess.run(["gcc", "-O2", "-s" if stripped else "-g", "-o", new, sources[0], "-lpthread"], check=True)
        new.replace(path)
    return path


class Program:
    """A program, ready to begin. Its working folder is where the cache is: a disk, mostly."""

    def __init__(self, planted: PlantedResource, seconds: float | None = None) -> None:
        command = planted.command(seconds)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cache.made()
        )
        self.pid = self.process.pid
        self._line()

    def _line(self) -> str:
        if self.process.stdout is None or not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the program has ended with status {self.process.wait()}")
        return line

    def begin(self) -> None:
        """Let it begin."""
        if self.process.stdin is not None:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def truth(self) -> Mapping[str, Any]:
        """What happened, once it has; the program is still there."""
        return dict(json.loads(self._line()))

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def show(planted: PlantedResource, arguments: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit status."""
    parser = argparse.ArgumentParser(description=f"Plants {planted.pathology or 'nothing'}: {planted.resource}.")
    parser.add_argument("-o", "--output", default=f"{planted.scenario}.duckdb", help="default: %(default)s")
    parser.add_argument("-s", "--seconds", type=float, default=planted.seconds, help="default: %(default)s")
    asked = parser.parse_args(arguments)
    output = Path(asked.output).absolute()
    status, truth, lines = record(planted, output, asked.seconds)
    print(*lines, sep="\n")
    return status or _compare(planted, output, truth)


def record(planted: PlantedResource, output: Path, seconds: float) -> tuple[int, Mapping[str, Any], list[str]]:
    """Run the program and record it: the exit status, the program's truth, and the lines of the report."""
    options = ["--resources", planted.manifests, "--levels", "token,sched", "-f", "-o", str(output)]
    command = [*FLOWPROF, "run", *options, "--", *planted.command(seconds)]
    done = subprocess.run(command, input="go\n", text=True, cwd=cache.made(), stdout=subprocess.PIPE, check=False)
    lines = done.stdout.splitlines()
    truth = [json.loads(line) for line in lines if line.startswith('{"scenario"')]
    status = done.returncode if truth else done.returncode or 1
    return status, truth[0] if truth else {}, [line for line in lines if not line.startswith('{"scenario"')]


def _compare(planted: PlantedResource, recording: Path, truth: Mapping[str, Any]) -> int:
    told = subprocess.run([*FLOWPROF, "report", recording, "--json"], check=True, stdout=subprocess.PIPE).stdout
    report = json.loads(told)
    if planted.ends:
        wrong = resource_truth.ends_differ(planted.ends, report, truth, planted.resource)
        print(f"\nplanted:  waits that end at {planted.ends}")
    else:
        true = resource_truth.planted(truth, planted.pathology, planted.chain or (planted.resource,))
        said = resource_truth.reported(report, truth)
        wrong = resource_truth.differences(true, said, (truth["end_ns"] - truth["start_ns"]) / 1e9)
        print(f"\nplanted:  {true}\nreported: {said}")
    print(f"{'they differ: ' + '; '.join(wrong) if wrong else 'they agree'} ({recording})")
    return 1 if wrong else 0
