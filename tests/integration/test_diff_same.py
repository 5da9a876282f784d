"""A live server that nobody changed must have nothing said of it. And one that changed midway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flowprof.examples import load
from flowprof.examples.hog import running as hog
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.diff import sources
from flowprof.profiler.diff.compare import compare_self
from flowprof.profiler.diff.phases import phase_shifts
from flowprof.profiler.diff.rows import rows
from flowprof.profiler.diff.side import span
from flowprof.profiler.diff.steps import Steps
from flowprof.profiler.store import Recording
from undisturbed import CPUS, DISTURBED, recorded

pytestmark = [DISTURBED, pytest.mark.bpf, pytest.mark.engine]

PAIRS, RECORDINGS, REQUESTS, CHUNK = 20, 5, 8, 16


def ask(server: RunningServer, tokens: int, seed: int = 0) -> None:
    load.request(server.url, n_predict=tokens, prompt_tokens=32, seed=seed)


def taken(steps: Steps, which: np.ndarray) -> Steps:
    """Some of the measured steps, as a run of its own."""
    ns = steps.ns[which]
    return replace(
        steps, start_ns=steps.start_ns[which], tokens=steps.tokens[which], ns=ns,
        layers={group: (layers, each[which]) for group, (layers, each) in steps.layers.items()},
        all_start_ns=steps.start_ns[which], all_tokens=steps.tokens[which], all_ns=ns.sum(axis=1),
        all_level=np.zeros(0, np.int64),
    )  # fmt: skip


def dealt(steps: Steps, random: np.random.Generator) -> tuple[Steps, Steps]:
    """Chunks of neighbouring steps, of each two next to each other one to either side."""
    chunk = np.arange(len(steps.tokens)) // CHUNK
    swapped = random.random(chunk[-1] // 2 + 1) < 0.5
    first = (chunk % 2 == 0) ^ swapped[chunk // 2]
    return taken(steps, np.flatnonzero(first)), taken(steps, np.flatnonzero(~first))


def test_nothing_is_said_of_a_server_that_did_not_change(
    tmp_path: Path, quiet_server: Callable[..., RunningServer]
) -> None:
    """Recordings of it, each dealt out to two sides chunk by chunk: both have whatever neighbours on the host do.

    Whole recordings made one after the other differ by 10 to 20 % on such a host; the diff says that they do, and that
    one normal recording cannot tell whether it is the machine. One false alarm in twenty pairs is allowed.
    """
    server, random = quiet_server("dense-150m"), np.random.default_rng(1)
    decode: list[Steps] = []
    for number in range(RECORDINGS):
        file = tmp_path / f"{number}.duckdb"
        with recorded(server, file):
            for seed in range(REQUESTS):
                ask(server, 64, seed)
        with Recording.open(str(file)) as recording:
            decode.append(next(steps for steps in sources.read(recording) if steps.phase == "decode"))
    loud = []
    for number in range(PAIRS):
        a, b = ((one,) for one in dealt(decode[number % RECORDINGS], random))
        shifts = phase_shifts((a,), (b,))
        found = rows((a,), (b,), shifts)
        assert len(found) > 20 and shifts[0].q is not None, "it was tested"
        told = [(row.name, row.delta_ns_per_token, row.noise_ns_per_token) for row in found if row.significant]
        print(number, shifts[0], told)  # shown when the test fails
        if told or shifts[0].significant:
            loud.append(number)
    assert len(loud) <= 1


def test_when_a_neighbour_came(tmp_path: Path, quiet_server: Callable[..., RunningServer]) -> None:
    """A hog takes one of the two processors from the second request on: the change is where it began."""
    server = quiet_server("dense-150m")
    file = tmp_path / "changed.duckdb"
    with recorded(server, file):
        ask(server, 200)
        with hog(CPUS[1], 20, 20):
            ask(server, 150)
    found = compare_self(str(file))
    print(found.headline, *found.causes, sep="\n")
    assert found.verdict == "slower" and found.changed_at_ns is not None
    with Recording.open(str(file)) as recording:
        begin, end = span(recording)
    assert 0.2 < found.changed_at_ns / (end - begin) < 0.8
    assert found.causes[0].kind == "preemption"
