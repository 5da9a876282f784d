"""`overlap.host`: a model so small that sampling and HTTP take a good part of every step.

Between two decode steps the compute threads have no graph. The report says for what part of a usual step, and how much
of it the thread that drives the graphs slept.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted import Planted, show

PLANTED = Planted("overlap.host", model="tiny")

if __name__ == "__main__":
    sys.exit(show(PLANTED))
