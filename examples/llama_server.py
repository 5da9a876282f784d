"""A real llama-server (xllamacpp's) on a loopback port, in a process of its own.

    python -m flowprof.examples.llama_server MODEL.gguf --threads 2 < some-pipe

prints one JSON line, `{"pid": …, "port": …, "model": …}`, once it answers, and ends at SIGTERM or when its
standard input closes: a caller that dies takes its server along. `start(model)` does that from Python and
returns a handle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_SECONDS = 120.0


class ServerFailedError(Exception):
    """The server did not come up; the text ends with its last words."""


@dataclass(slots=True)
class RunningServer:
    """A server that answers. Use as a context manager, or call `stop()`."""

    pid: int
    port: int
    model: Path
    process: subprocess.Popen[str] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, seconds: float = 10.0) -> None:
        """End the server: politely, then by SIGKILL; nothing happens when it is gone already."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def start(
    model: str | Path,
    *,
    threads: int = 2,
    slots: int = 1,
    ctx: int = 4096,
    batch: int = 2048,
    ubatch: int = 512,
    flash_attention: bool = True,
    unified: bool = False,
    log: str | Path | None = None,
    python: str = sys.executable,
    wrapper: tuple[str, ...] = (),
) -> RunningServer:
    """Start a server and wait until it answers.

    `ctx` is for all slots together; `ubatch`: tokens per graph; `unified`: the slots share one KV cache, and prompts a
    batch with decoding; `log` takes the server's own words; `wrapper` is a command in front, such as
    `("taskset", "-c", "0")`. Raises ServerFailedError.
    """
    command = [*wrapper, python, "-m", "flowprof.examples.llama_server", str(model)]
    command += ["--threads", str(threads), "--slots", str(slots), "--ctx", str(ctx), "--batch", str(batch)]
    command += ["--ubatch", str(ubatch)]
    command += ["--no-flash-attention"] * (not flash_attention)
    command += ["--kv-unified"] * unified
    with open(log if log is not None else os.devnull, "wb") as words:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True)
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    assert process.stdout is not None
    line = process.stdout.readline()
    timer.cancel()
    if not line:
        status = process.wait()
        said = Path(log).read_text(errors="replace")[-2000:] if log is not None else "(no log was kept)"
        raise ServerFailedError(f"llama-server did not start (exit status {status}): {said}")
    facts = json.loads(line)
    return RunningServer(facts["pid"], facts["port"], Path(model), process)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2, help="engine threads (default: 2)")
    parser.add_argument("--slots", type=int, default=1, help="requests decoded together (default: 1)")
    parser.add_argument("--ctx", type=int, default=4096, help="context of all slots, in tokens (default: 4096)")
    parser.add_argument("--batch", type=int, default=2048, help="tokens per batch (default: 2048)")
    parser.add_argument("--ubatch", type=int, default=512, help="tokens per graph (default: 512)")
    parser.add_argument(
        "--no-flash-attention", action="store_true", help="KQ, softmax and KQV as operators of their own"
    )
    parser.add_argument("--kv-unified", action="store_true", help="one KV cache for all slots")
    asked = parser.parse_args()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who closes our stdin
    server = _server(asked)  # its end is the server's end
    port = _wait_until_it_answers(str(server.listening_address))
    print(json.dumps({"pid": os.getpid(), "port": port, "model": asked.model}), flush=True)
    threading.Thread(target=_wait_for_end_of_input, args=(ended,), daemon=True).start()
    ended.wait()
    os._exit(0)  # the server's threads have no other end


def _server(asked: argparse.Namespace) -> Any:
    """xllamacpp's Server: it listens from now on and loads the model on a thread of its own."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = asked.model
    params.port = 0
    if hasattr(params, "hostnames"):
        params.hostnames = ["127.0.0.1"]
    else:  # builds until the summer of 2026
        params.hostname = "127.0.0.1"
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked.threads
    params.n_parallel, params.n_ctx, params.n_batch = asked.slots, asked.ctx, asked.batch
    params.n_ubatch = asked.ubatch
    if asked.no_flash_attention:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_gpu_layers = 0
    params.fit_params = False  # it would measure the host's memory first; the models are small
    params.warmup = True
    params.ui = False
    params.kv_unified = asked.kv_unified
    return xllamacpp.Server(params)


def _wait_until_it_answers(address: str) -> int:
    """The port, once the model is loaded."""
    port = int(address.rsplit(":", 1)[1])
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
            return port
        time.sleep(0.02)
    raise SystemExit("the model was not loaded in time")


def _wait_for_end_of_input(ended: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    ended.set()


if __name__ == "__main__":
    main()
