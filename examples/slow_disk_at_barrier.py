"""Two threads meet at a barrier, and the one that uses the disk comes last: the other waits for it."""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("waits", "slow-disk", 3, "barrier", "", ends="disk")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
