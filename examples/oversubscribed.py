"""`threads.oversubscribed`: a server with twice as many threads as there are processors.

At every barrier threads spin for others that have no processor. The report counts both, and what it costs.
"""

from __future__ import annotations

import os
import sys

from flowprof.examples.planted import Planted, show

PLANTED = Planted(
    "threads.oversubscribed", model="tiny", n_predict=16, server={"threads": 2 * len(os.sched_getaffinity(0))}
)

if __name__ == "__main__":
    sys.exit(show(PLANTED))
