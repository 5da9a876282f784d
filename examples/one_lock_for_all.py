"""Four threads that have one lock for most of what they do: one works, three wait."""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "section", 3, "section")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
