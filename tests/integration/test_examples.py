"""The examples that demo and tests stand on: the model, the server, the load."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from flowprof.examples import llama_server, load, synthetic_model

pytestmark = [pytest.mark.engine, pytest.mark.parallel]


def test_the_same_model_every_time(tmp_path: Path) -> None:
    import gguf

    paths = [synthetic_model.write("tiny", tmp_path / f"{n}.gguf") for n in range(2)]
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == 1
    reader = gguf.GGUFReader(paths[0])
    assert len(reader.tensors) == len(list(synthetic_model.tensors(synthetic_model.KINDS["tiny"])))
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"Q8_0", "F32"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.gguf", "1.gguf"]


@pytest.mark.parametrize("kind", ["tiny", "moe"])
@pytest.mark.parametrize("stream", [False, True])
def test_requests_do_what_was_asked(shared_server, kind: str, stream: bool) -> None:
    server = shared_server(kind)
    answers = load.run(server.url, requests=3, n_predict=20, prompt_tokens=10, stream=stream)
    assert [(answer.prompt_n, answer.predicted_n) for answer in answers] == [(10, 20)] * 3
    for answer in answers:
        assert answer.predicted_ms > 0 and answer.sent_ns < answer.done_ns
        assert (answer.first_token_ns is not None) == stream


def test_load_stops_when_told(shared_server) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    assert load.run(shared_server("tiny").url, n_predict=5, prompt_tokens=5, stop=stop, concurrency=2)


@pytest.mark.parametrize("end", ["stdin", "SIGTERM"])
def test_server_ends(own_server, end: str) -> None:
    server = own_server("tiny")
    if end == "stdin":
        server.process.stdin.close()
    else:
        os.kill(server.pid, signal.SIGTERM)
    assert server.process.wait(10) == 0


def test_server_ends_with_its_caller() -> None:
    script = (
        "from flowprof.examples import llama_server, synthetic_model\n"
        "print(llama_server.start(synthetic_model.write('tiny')).pid, flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    server = psutil.Process(int(caller.stdout.readline()))
    caller.kill()
    caller.wait()
    server.wait(10)


def test_a_bad_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    with pytest.raises(llama_server.ServerFailedError):
        llama_server.start(tmp_path / "bad.gguf", log=tmp_path / "log")
