"""One thread alters a table for seconds, another wants to insert a row and waits for its lock.

The holder is named with its stack. When the recording ends before the wait does (`attach -d`), the wait counts up to
there.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "table", 5.9, "table")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
