"""`losses.withheld`: the ring to which events go is far too small for what a program does: most of them are lost.

The program is `scan_floods_pool`'s. What was lost is counted and printed, and no verdict on resources or waits is
given: what is there no longer says who waited for whom.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from flowprof.examples.planted import where
from flowprof.examples.planted_resource import FLOWPROF, Program
from flowprof.examples.scan_floods_pool import RESOURCE
from flowprof.probes import ENGINES
from flowprof.profiler.machine import kernel
from flowprof.profiler.planning.plan import make_plan
from flowprof.profiler.record.options import Options
from flowprof.profiler.record.recorder import Recorder
from flowprof.profiler.resources.manifest import load
from flowprof.profiler.store import Recording
from flowprof.profiler.target import open_target

RING_SHIFT = 7  # 128 events for each processor; it keeps 64 of them free


def record(path: Path) -> None:
    """As `flowprof attach` does, but for the ring."""
    manifests = (load(RESOURCE.manifests),)
    with Program(RESOURCE) as program, Recording.create(str(path), overwrite=True) as recording:
        plan = make_plan([open_target(program.pid)], kernel.version(), ENGINES, manifests=manifests)
        options = Options(manifests=manifests, levels=("token", "sched"), ring_shift=RING_SHIFT, release=program.begin)
        recorder = Recorder(plan, recording, options)
        ended = threading.Timer(RESOURCE.seconds, recorder.stop, ["the program has done its work"])
        ended.start()
        recorder.run()
        ended.join()


def show(arguments: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Plants lost events.")
    parser.add_argument("-o", "--output", default="small-ring.duckdb", help="default: %(default)s")
    path = Path(parser.parse_args(arguments).output).absolute()
    record(path)
    status = subprocess.run([*FLOWPROF, "report", str(path)], check=False).returncode
    return status or where("losses.withheld", str(path))


if __name__ == "__main__":
    sys.exit(show())
