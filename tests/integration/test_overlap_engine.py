"""Prompts beside decoding on a real llama-server: with a KV cache per slot they are computed apart, with one together.

llama.cpp splits a batch into graphs by sequences of equal length where slots have caches of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.examples import load
from flowprof.examples.llama_server import RunningServer
from flowprof.profiler.analyzers import overlap
from flowprof.profiler.store import Recording
from undisturbed import DISTURBED

GRAPHS = "SELECT phase, tokens, outputs, count(*) FROM graph_exec JOIN graph USING (graph_id) GROUP BY ALL"
pytestmark = [DISTURBED, pytest.mark.bpf, pytest.mark.engine]


@pytest.mark.parametrize("unified", [False, True])
def test_prompts_beside_decoding(
    own_server: Callable[..., object], flowprof: Callable[..., object], tmp_path: Path, unified: bool
) -> None:
    server = own_server("tiny", slots=3, ctx=6144, unified=unified)
    stop = threading.Event()
    path = tmp_path / "a.duckdb"

    def client(number: int, **what: object) -> None:
        while not stop.is_set():
            number += 10
            load.request(server.url, seed=number, **what)

    answers, prompts = {"n_predict": 400, "prompt_tokens": 16, "stream": True}, {"n_predict": 1, "prompt_tokens": 200}
    clients = [
        threading.Thread(target=client, args=(number,), kwargs=what)
        for number, what in ((1, answers), (2, answers), (3, prompts))
    ]
    for thread in clients:
        thread.start()
    try:
        done = flowprof("attach", server.pid, "-d", "4s", "-f", "-o", path, timeout=60)
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    assert done.returncode == 0, done.stderr
    with Recording.open(str(path)) as recording:
        found = overlap.table(recording)
        print(*recording.rows(GRAPHS), sep="\n")  # shown when the test fails
    if unified:
        assert found.overlaps == () and "both already" in found.refused[0]
    else:
        assert len(found.overlaps) == 1, found.refused
        one = found.overlaps[0]
        assert (one.kind, one.culprit) == ("free", "a batch of prefill alone") and one.count >= 3


def test_what_the_gaps_between_steps_are_made_of(
    server: Callable[..., RunningServer], flowprof: Callable[..., object], tmp_path: Path
) -> None:
    """With the probabilities of 5000 tokens asked for, choosing one takes much longer, and nothing else does."""
    tiny = server("tiny")
    took: dict[int, dict[str, float]] = {}
    for probabilities in (0, 5000):
        stop = threading.Event()
        path = tmp_path / f"{probabilities}.duckdb"

        def client(stop: threading.Event = stop, wanted: int = probabilities) -> None:
            while not stop.is_set():
                load.request(tiny.url, n_predict=30, prompt_tokens=8, n_probs=wanted)

        thread = threading.Thread(target=client)
        thread.start()
        try:
            done = flowprof("attach", tiny.pid, "-d", "3s", "-f", "-o", path, timeout=60)
        finally:
            stop.set()
            thread.join()
        assert done.returncode == 0, done.stderr
        with Recording.open(str(path)) as recording:
            gap = overlap.table(recording).host
        assert gap is not None and gap.parts_gaps >= 0.98 * gap.gaps > 50
        assert sum(part.total_ns for part in gap.parts) <= gap.total_ns
        took[probabilities] = {part.what: part.total_ns / gap.parts_gaps for part in gap.parts}
    plain, dear = took.values()
    print(took)  # shown when the test fails
    assert list(plain) == ["choosing tokens", "answers and next batch", "setting up the graph"]
    assert dear["choosing tokens"] > 3 * plain["choosing tokens"]
    assert dear["setting up the graph"] < 2 * plain["setting up the graph"]
