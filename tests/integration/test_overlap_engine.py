"""Prompts beside decoding on a real llama-server: with a KV cache per slot they are computed apart, with one together.

llama.cpp splits a batch into graphs by sequences of equal length where slots have caches of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from flowprof.examples import load
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
