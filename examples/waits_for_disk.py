"""A waits for the answers of B, and B for the disk; C waits longest, for a timer, and is not the matter."""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("waits", "disk", 2, "answer", "", ends="disk")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
