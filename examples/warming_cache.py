"""A cache that fills with what is asked for until all of it is there: no leak, no growth without bound."""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "cache", 4, "entry", "")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
