"""A program without symbols, one of whose threads keeps a mutex of the C library for 20 ms at a time.

The manifest is the C library's own: the mutex is named by its address, its users by their stacks.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("waits", "mutex", 3, "mutex", stripped=True, manifest="pthread")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
