"""`processes.starved`: two servers that are bound to one processor, and recorded together.

Each has one thread that computes, and both work all the time: each could run half of the time while the other one has
the processor.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from flowprof.examples import llama_server, load, synthetic_model
from flowprof.examples.planted import FLOWPROF, Planted, every, where

PLANTED = Planted("processes.starved", model="tiny", n_predict=16, server={"threads": 1})


def show(arguments: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit status."""
    parser = argparse.ArgumentParser(description=f"Plants what flowprof finds as {PLANTED.finding}.")
    parser.add_argument("-o", "--output", default=f"{PLANTED.finding}.duckdb", help="default: %(default)s")
    parser.add_argument("-d", "--duration", default=PLANTED.duration, help="how long to record (default: %(default)s)")
    asked = parser.parse_args(arguments)
    model = synthetic_model.write(PLANTED.model)
    one = ("taskset", "-c", str(max(os.sched_getaffinity(0))))
    with ExitStack() as stack:
        servers = [stack.enter_context(llama_server.start(model, wrapper=one, **PLANTED.server)) for _ in range(2)]
        for server in servers:
            request = {"n_predict": PLANTED.n_predict, "prompt_tokens": PLANTED.prompt_tokens}
            stack.enter_context(every(0.0, lambda url=server.url, how=request: load.request(url, **how)))  # type: ignore[misc]
        pids = ",".join(str(server.pid) for server in servers)
        command = ["attach", pids, "-d", asked.duration, "--levels", "token,graph,sched", "-f", "-o", asked.output]
        status = subprocess.run([*FLOWPROF, *command], check=False).returncode
    return status or where(PLANTED.finding, asked.output)


if __name__ == "__main__":
    sys.exit(show())
