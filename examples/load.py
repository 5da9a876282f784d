"""Load for a llama-server, and the server's own account of every request.

    python -m flowprof.examples.load http://127.0.0.1:8080 --requests 4 --n-predict 64 --concurrency 2

prints one JSON object per request. Prompts are token ids drawn from a seed, the prompt cache is off and the
end-of-text token is ignored, so that every request does exactly the work that was asked for: `prompt_tokens`
of prefill and `n_predict` tokens, the first of which comes out of the prefill (so there are `n_predict` − 1
decode graphs, and `predicted_ms` is the time of those).
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

FIRST_WORD, WORDS = 300, 31_000  # token ids of plain words in the synthetic vocabulary


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: the client's clock (CLOCK_MONOTONIC ns) and the server's own `timings`."""

    sent_ns: int
    first_token_ns: int | None  # None when not streamed
    done_ns: int
    id_slot: int
    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    timings: dict[str, Any]


def request(
    url: str, *, n_predict: int, prompt_tokens: int, stream: bool = False, seed: int = 0, **more: object
) -> Answer:
    """Send one completion and wait for its end. more: of the server's options. Raises OSError when it is gone or
    refuses."""
    chosen = random.Random(seed)
    body = {
        "prompt": [1] + [chosen.randrange(FIRST_WORD, FIRST_WORD + WORDS) for _ in range(prompt_tokens - 1)],
        "n_predict": n_predict,
        "ignore_eos": True,
        "cache_prompt": False,
        "stream": stream,
        "seed": seed,
    } | more
    asked = urllib.request.Request(f"{url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    sent, first = time.monotonic_ns(), None
    last: dict[str, Any] = {}
    with urllib.request.urlopen(asked, timeout=600) as reply:
        if stream:
            for event in _events(reply):
                first = first or time.monotonic_ns()
                last = event
        else:
            last = json.load(reply)
    done = time.monotonic_ns()
    timings = last["timings"]
    return Answer(
        sent,
        first,
        done,
        last.get("id_slot", 0),
        timings["prompt_n"],
        timings["prompt_ms"],
        timings["predicted_n"],
        timings["predicted_ms"],
        timings,
    )


def _events(reply: Any) -> Iterator[dict[str, Any]]:
    """The JSON of a server-sent event stream."""
    for line in reply:
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield json.loads(line[6:])


def run(
    url: str,
    *,
    requests: int | None = None,
    seconds: float | None = None,
    n_predict: int = 64,
    prompt_tokens: int = 16,
    concurrency: int = 1,
    stream: bool = False,
    stop: threading.Event | None = None,
    go_on: bool = False,
) -> list[Answer]:
    """Send whole requests, `concurrency` at a time, until `requests` are done, `seconds` over or `stop` set.

    Answers come in the order in which they ended. Raises the first error of any client; with `go_on` a request that the
    server ends with an error is left out instead.
    """
    numbers, lock = count(), threading.Lock()
    answers: list[Answer] = []
    deadline = None if seconds is None else time.monotonic() + seconds

    def client() -> None:
        while not (stop is not None and stop.is_set()) and (deadline is None or time.monotonic() < deadline):
            with lock:
                number = next(numbers)
            if requests is not None and number >= requests:
                return
            try:
                answer = request(url, n_predict=n_predict, prompt_tokens=prompt_tokens, stream=stream, seed=number)
            except urllib.error.HTTPError as error:
                error.close()
                if go_on:
                    continue
                raise
            with lock:
                answers.append(answer)

    with ThreadPoolExecutor(concurrency) as clients:
        for pending in [clients.submit(client) for _ in range(concurrency)]:
            pending.result()
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, help="how many (default: 1, or what fits into --seconds)")
    parser.add_argument("--seconds", type=float, help="begin no request after this time")
    parser.add_argument("--n-predict", type=int, default=64, help="tokens per request (default: 64)")
    parser.add_argument("--prompt-tokens", type=int, default=16, help="length of the prompt (default: 16)")
    parser.add_argument("--concurrency", type=int, default=1, help="requests at a time (default: 1)")
    parser.add_argument("--stream", action="store_true", help="stream, and note when the first token came")
    asked = vars(parser.parse_args())
    if asked["requests"] is None and asked["seconds"] is None:
        asked["requests"] = 1
    for answer in run(**asked):
        print(json.dumps(asdict(answer)))


if __name__ == "__main__":
    main()
