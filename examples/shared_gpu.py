"""`processes.gpu`: two processes launch work for one GPU; one does all along, the other now and then.

No GPU is needed: on the stub a kernel takes twice as long while both have work (cuda/stub.c). The report says how much
longer launching and waiting takes the one while the other has work in flight.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from flowprof.examples.cuda_program import RUNTIME, Called, Program, compiled
from flowprof.examples.planted import FLOWPROF, asked_for, every, where

PLANTED = Called("processes.gpu", "drained", kernel_us=1000)
PAUSE_S = 0.15  # of the second one, between bursts of about as long


def show(arguments: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit status."""
    asked = asked_for(PLANTED.finding, "4s", arguments)
    with tempfile.TemporaryDirectory() as folder:
        stub = compiled(Path(folder), "stub.c", shared=RUNTIME, flags=(f"-DKERNEL_US={PLANTED.kernel_us}",))
        path = compiled(Path(folder), "program.c", flags=(str(stub),))
        device = Path(folder) / "device"
        with Program(path, stub.parent, device) as first, Program(path, stub.parent, device) as second:

            def burst() -> None:
                second.tell("serialised", 4)
                time.sleep(PAUSE_S)

            with every(0.0, lambda: first.tell(PLANTED.order, 10)), every(0.0, burst):
                command = ["attach", f"{first.pid},{second.pid}", "-d", asked.duration, "--full"]
                command += ["--levels", "token,op,sched", "-f", "-o", asked.output]
                status = subprocess.run([*FLOWPROF, *command], check=False).returncode
    return status or where(PLANTED.finding, asked.output)


if __name__ == "__main__":
    sys.exit(show())
