"""`processes.starved`: two servers that are bound to one processor, and recorded together.

Each has one thread that computes, and both work all the time: each could run half of the time while the other one has
the processor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from flowprof.examples import llama_server, load, synthetic_model
from flowprof.examples.planted import FLOWPROF, Planted, asked_for, every, where

PLANTED = Planted("processes.starved", model="tiny", n_predict=16, server={"threads": 1})


def show(arguments: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit status."""
    asked = asked_for(PLANTED.finding, PLANTED.duration, arguments)
    model = synthetic_model.write(PLANTED.model)
    one = ("taskset", "-c", str(max(os.sched_getaffinity(0))))
    with ExitStack() as stack:
        servers = [stack.enter_context(llama_server.start(model, wrapper=one, **PLANTED.server)) for _ in range(2)]
        for server in servers:
            ask = partial(load.request, server.url, n_predict=PLANTED.n_predict, prompt_tokens=PLANTED.prompt_tokens)
            stack.enter_context(every(0.0, ask))
        pids = ",".join(str(server.pid) for server in servers)
        command = ["attach", pids, "-d", asked.duration, "--levels", "token,graph,sched", "-f", "-o", asked.output]
        status = subprocess.run([*FLOWPROF, *command], check=False).returncode
    return status or where(PLANTED.finding, asked.output)


if __name__ == "__main__":
    sys.exit(show())
