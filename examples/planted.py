"""Plant one cause on a real llama-server, record it, and show the report that names it.

The programs beside this one plant one cause each; each is named after it and says in its docstring which finding it
makes fire, and what is to be seen:

    sudo .venv/bin/python -m flowprof.examples.preempted [-o FILE] [-d SECONDS]

They print flowprof's own report, and at last where in it the planted cause stands. The exit status is 1 when it is
not found.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowprof.examples import llama_server, load, synthetic_model
from flowprof.examples.llama_server import RunningServer

FLOWPROF = (sys.executable, "-m", "flowprof.profiler.cli")
LEVELS = "token,graph,op,thread,sched"
JITTER = 0.75, 1.25


@dataclass(frozen=True, slots=True)
class Planted:
    """A cause and the finding that it must lead to. `plant` holds as long as the recording lasts."""

    finding: str
    plant: Callable[[RunningServer], AbstractContextManager[object]] = lambda _: nullcontext()
    model: str = "dense-150m"
    own_copy: bool = False  # the model's pages must be nobody else's
    n_predict: int = 64
    prompt_tokens: int = 32
    concurrency: int = 1
    duration: str = "4s"  # how long to record, unless told otherwise
    server: dict[str, Any] = field(default_factory=dict)  # options of llama_server.start
    wrapper: Callable[[], tuple[str, ...]] = tuple  # the command in front of the server


def asked_for(finding: str, duration: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags of every program that plants a cause: output, duration."""
    parser = argparse.ArgumentParser(description=f"Plants what flowprof finds as {finding}.")
    parser.add_argument("-o", "--output", default=f"{finding}.duckdb", help="default: %(default)s")
    parser.add_argument("-d", "--duration", default=duration, help="how long to record (default: %(default)s)")
    return parser.parse_args(arguments)


def show(planted: Planted, arguments: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit status."""
    asked = asked_for(planted.finding, planted.duration, arguments)
    model = synthetic_model.write(planted.model)
    if planted.own_copy:
        copied = Path(f"{asked.output}.gguf")
        copied.write_bytes(model.read_bytes())
        model = copied
    try:
        started = llama_server.start(model, wrapper=planted.wrapper(), **planted.server)
        with started as server, _under_load(server, planted), planted.plant(server):
            command = ["attach", str(server.pid), "-d", asked.duration, "--full", "--levels", LEVELS]
            status = subprocess.run([*FLOWPROF, *command, "-f", "-o", asked.output], check=False).returncode
    finally:
        if planted.own_copy:
            model.unlink()
    return status or where(planted.finding, asked.output)


@contextmanager
def every(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Do something about every so many seconds while the block runs, in the background: what comes as regularly as the
    engine's steps would always hit the same operators."""
    ended = threading.Event()

    def again_and_again() -> None:
        while not ended.wait(seconds * random.uniform(*JITTER)):
            act()

    thread = threading.Thread(target=again_and_again)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _under_load(server: RunningServer, planted: Planted) -> Iterator[None]:
    stop = threading.Event()
    how = {"n_predict": planted.n_predict, "prompt_tokens": planted.prompt_tokens, "concurrency": planted.concurrency}
    client = threading.Thread(target=load.run, args=(server.url,), kwargs={**how, "stop": stop, "go_on": True})
    client.start()
    try:
        yield
    finally:
        stop.set()
        client.join()


def where(finding: str, recording: str) -> int:
    """Say where in the report the planted cause stands. Returns 1 when it is not there."""
    told = subprocess.run([*FLOWPROF, "report", recording, "--json"], check=True, stdout=subprocess.PIPE).stdout
    found = sorted(json.loads(told)["findings"], key=lambda one: one["severity"] != "problem")  # as the report has them
    ids = [one["id"] for one in found]
    there = finding in ids
    place = f"finding {ids.index(finding) + 1} of {len(ids)}" if there else f"not among {len(ids)} findings"
    print(f"\nplanted: {finding}, {place}; the recording: {recording}")
    return 0 if there else 1
