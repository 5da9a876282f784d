"""An address is a session for 1 ms, then a job for 10, and so on: two lifetimes each, not one long one."""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "reuse", 2, "job", "")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
