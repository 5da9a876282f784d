"""Four readers and 64 pages: nobody waits, nothing is to be reported."""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "healthy", 3, "page", "")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
