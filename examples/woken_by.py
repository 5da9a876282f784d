"""One thread is woken by timers, another by a thread, as often: only the second waits for somebody."""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("waits", "woken", 3, "answer", "")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
