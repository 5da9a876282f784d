"""`requests.delayed_by_prompt`: a prompt of 1 000 tokens comes to a server that is answering three chats.

The server computes the prompt in the same batches as the next tokens of the chats, which wait for it. The report names
the prompt, the chats that it delayed, and how much longer they waited between their tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flowprof.examples import load
from flowprof.examples.llama_server import RunningServer
from flowprof.examples.planted import Planted, every, show

PROMPT_TOKENS = 1_000
PAUSE_SECONDS = 0.7


@contextmanager
def plant(server: RunningServer) -> Iterator[None]:
    """One prompt after the other, with a pause in which the chats have the server to themselves."""

    def prompt() -> None:
        load.request(server.url, n_predict=1, prompt_tokens=PROMPT_TOKENS, seed=999)

    with every(PAUSE_SECONDS, prompt):
        yield


PLANTED = Planted(
    "requests.delayed_by_prompt",
    plant,
    model="tiny",
    n_predict=100,
    concurrency=3,
    server={"slots": 4, "ctx": 16_384, "batch": 512},
)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
