"""A scan takes all 64 pages of a pool again and again; four readers wait for one each.

The resource is the page, the pathology contention, and the scan is to blame: it has most pages for most of the time.
"""

from __future__ import annotations

import sys

from flowprof.examples.planted_resource import PlantedResource, show

RESOURCE = PlantedResource("pools", "flood", 4, "page")

if __name__ == "__main__":
    sys.exit(show(RESOURCE))
