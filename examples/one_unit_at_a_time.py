"""Ten thousand blocks a second, got one by one and used at once: a hundred at a time would do."""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "small", 3, "block", "insufficient allocation")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
