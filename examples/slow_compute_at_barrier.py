"""Two threads meet at a barrier, and the one that computes comes last: the other waits for it."""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("waits", "slow-compute", 3, "barrier", "", ends="compute side")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
